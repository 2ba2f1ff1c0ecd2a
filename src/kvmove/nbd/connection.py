"""One connection of a client to an NBD server on a Unix socket, for one request at a time. Blocking.

Invariant: no call outlasts a server that does not move: the kernel ends any single wait for it after `timeout` seconds.
After anything but `Refused` the connection is useless.
"""

import contextlib
import errno
import socket
from collections.abc import Sequence
from pathlib import Path
from struct import Struct

from kvmove.nbd import replies
from kvmove.nbd.negotiation import Agreement, negotiate
from kvmove.nbd.protocol import COMMAND_DISCONNECT, COMMAND_FLAG_DF, COMMAND_READ, ExportFlag, ProtocolError
from kvmove.nbd.replies import StatusRun, encode_request

_TIMEVAL = Struct("@ll")


class Connection:
    """In the transmission phase from its start to `close`. Not safe for several threads, but for `cut`."""

    def __init__(self, path: Path, export: str, contexts: Sequence[str], timeout: float) -> None:
        """:raise OSError: nobody listens there, or does not answer. :raise ProtocolError: see `negotiate`."""
        self._cookie = 0
        self._timeout = timeout
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(str(path))
            self._socket.settimeout(None)
            # The kernel's timeouts: Python's own would cost a poll(2) a call, and MSG_WAITALL.
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self._socket.setsockopt(socket.SOL_SOCKET, option, _timeval(timeout))
            self.agreement: Agreement = negotiate(self._receive, self._send, export, contexts)
        except BaseException:
            self._socket.close()
            raise

    def run(self, command: int, flags: int, offset: int, length: int, data: memoryview | None = None) -> None:
        """A request that brings no data; `data` is what a write writes.

        :raise Refused: the server could not do it. :raise ProtocolError, OSError: the connection is useless.
        """
        self._send(encode_request(command, flags, self._next_cookie(), offset, length), data)
        replies.take_done(self._fill, self._cookie)

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`. Raises as `run` does.

        In one chunk: QEMU 7.2 closes the connection when it cannot read something that it answers in several
        (nbd/server.c, nbd_co_send_sparse_read), and nobody would hear what was wrong.
        """
        flags = COMMAND_FLAG_DF if self.agreement.flags & ExportFlag.SEND_DF else 0
        self._send(encode_request(COMMAND_READ, flags, self._next_cookie(), offset, len(buffer)))
        if self.agreement.has_chunks:
            replies.take_data(self._fill, self._cookie, buffer, offset)
        else:
            replies.take_plain_data(self._fill, self._cookie, buffer)

    def status(self, command: int, offset: int, length: int) -> dict[str, list[StatusRun]]:
        """The block status by the names of the contexts. Raises as `run` does."""
        self._send(encode_request(command, 0, self._next_cookie(), offset, length))
        found = replies.take_status(self._fill, self._cookie)
        return {self.agreement.contexts.get(number, ""): runs for number, runs in found.items()}

    def close(self) -> None:
        """Say goodbye and close. Only between two requests, or after `cut`."""
        with contextlib.suppress(OSError):  # the server is gone
            self._socket.send(encode_request(COMMAND_DISCONNECT, 0, self._next_cookie(), 0, 0), socket.MSG_DONTWAIT)
        self._socket.close()

    def cut(self) -> None:
        """From any thread: end what is under way with an error. The thread that is in it closes."""
        with contextlib.suppress(OSError):  # it ended by itself
            self._socket.shutdown(socket.SHUT_RDWR)

    def _next_cookie(self) -> int:
        self._cookie += 1
        return self._cookie

    def _send(self, head: bytes, data: memoryview | None = None) -> None:
        try:
            if data is None:
                self._socket.sendall(head)
                return
            sent = self._socket.sendmsg((head, data)) - len(head)
            if sent < 0:
                raise TimeoutError(errno.ETIMEDOUT, self._silence())
            while sent < len(data):
                sent += self._socket.send(data[sent:])
        except BlockingIOError as error:
            raise TimeoutError(errno.ETIMEDOUT, self._silence()) from error

    def _fill(self, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            try:
                count = self._socket.recv_into(buffer[done:], 0, socket.MSG_WAITALL)
            except BlockingIOError as error:
                raise TimeoutError(errno.ETIMEDOUT, self._silence()) from error
            if not count:
                raise ProtocolError("the NBD server closed the connection")
            done += count

    def _receive(self, count: int) -> bytes:
        data = bytearray(count)
        self._fill(memoryview(data))
        return bytes(data)

    def _silence(self) -> str:
        return f"it did not answer within {self._timeout:g} s"


def _timeval(seconds: float) -> bytes:
    return _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1_000_000))
