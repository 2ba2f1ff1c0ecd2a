"""One TCP connection of a move, bound to one migration NIC, in TLS or in clear.

A stream belongs to one thread at a time. OpenSSL's connection may not be read and written by two threads at once
(Python 3.11's ssl module takes no lock of its own), so both directions are driven by the one thread: `pump` sends
what is queued, reads what is there, and waits at most so long; another thread may only call `wake`.

Its buffers in the kernel grow with bandwidth x round trip (buffer_sizes), also beyond what the kernel would give.

Deliberately not here: what the bytes mean, and what to do when the stream dies.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kvmove.transport import liveness
from kvmove.transport.buffer_sizes import FIRST, BufferSize
from kvmove.transport.tcp_info import TcpInfo, read_tcp_info

UNSENT_LOW = 1024 * 1024
"""TCP_NOTSENT_LOWAT, bytes: the kernel reports a socket writable only below this, so most of what waits stays with us,
where mirrored writes can still overtake bulk data. 9 ms of a 1 Gbit/s wire: so long may a busy processor keep us off
before the wire is idle."""

GATHER = 128 * 1024
"""Items shorter than this (bytes) are sent together with what follows them."""

LOWAT_LEAST = 32 * 1024
"""Input below this (bytes) is not worth waiting for in one piece."""

TLS_SLACK = 48 * 1024
"""Bytes of a message that the TLS layer may have taken from the socket already: part of a record, and what it reads
ahead. A wait for more than is to come would not end."""

TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; the socket module has no name for it
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h; beyond net.core.*mem_max, for root
_SO_RCVBUFFORCE = 33
_FORCED = {socket.SO_SNDBUF: _SO_SNDBUFFORCE, socket.SO_RCVBUF: _SO_RCVBUFFORCE}
_ROUND_TRIPS = struct.Struct("=92xI52xI")  # tcpi_rcv_rtt, tcpi_min_rtt in struct tcp_info (linux/tcp.h), microseconds
_UNKNOWN = 0xFFFFFFFF  # of the second, at an end that has not yet had an answer to what it sent

USER_TIMEOUT_MS = 15_000
"""TCP_USER_TIMEOUT: a peer that acknowledges nothing for so long is gone."""


class StreamLost(Exception):
    """The connection is of no use any more; everything not acknowledged on it is undelivered."""


class StreamRefused(StreamLost):
    """The destination answered, and does not take the stream: another attempt would fare no better."""


@dataclass(slots=True)
class _Output:
    """What is left of one queued item: bytes, or a range of a file; `done` is called once all is in the socket."""

    data: memoryview | None
    file: int
    offset: int
    left: int
    done: Callable[[], None] | None
    read: Callable[[int, float], None] | None = None


class Stream:
    """A connected socket with a queue of output. `nic` is the source's NIC, `number` its number in the move."""

    def __init__(self, sock: socket.socket, nic: str = "") -> None:
        self.sock = sock
        self.nic = nic
        self.number = -1
        self.encrypted = isinstance(sock, ssl.SSLSocket)
        self.bytes_sent = 0
        self.bytes_received = 0
        self.unsent = 0
        self._output: deque[_Output] = deque()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake_read, select.POLLIN)
        self._woken = False
        self._lowest_input = 1
        self._closing = threading.Lock()  # no other thread may touch a descriptor that was closed, and used anew
        self._closed = False
        self._sending, self._receiving = BufferSize(), BufferSize()
        sock.setblocking(False)

    # Output.

    def queue(self, data: bytes | memoryview, done: Callable[[], None] | None = None) -> None:
        """Send `data` after all that is queued. It must not change until `done` is called."""
        self._output.append(_Output(memoryview(data), -1, 0, len(data), done))
        self.unsent += len(data)

    def queue_file(self, file: int, offset: int, length: int, read: Callable[[int, float], None] | None = None) -> None:
        """Send a range of an open file, without copying it here; only where the stream is not encrypted. `read` is told
        how many bytes went in how many seconds, in which the file may have been waited for."""
        self._output.append(_Output(None, file, offset, length, None, read))
        self.unsent += length

    def flush(self) -> None:
        """Give the socket what it takes now.

        :raise StreamLost: the connection is gone.
        """
        try:
            while self._output and self._send_first():
                pass
        except OSError as error:
            raise StreamLost(f"sending: {error}") from error

    def _send_first(self) -> bool:
        """Send the first item, or several short ones; False when the socket takes no more now."""
        first = self._output[0]
        if first.data is None:
            return self._send_file(first)
        if not self.encrypted and len(self._output) > 1 and first.left < GATHER:
            return self._send_gathered()
        send, data = self.sock.send, first.data
        try:
            while data:  # TLS takes a record of 16 KiB at a time: the loop that runs most often of all
                data = data[send(data) :]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return False
        finally:
            sent = first.left - len(data)
            first.data = data
            self._account(first, sent)
        return True

    def _send_file(self, first: _Output) -> bool:
        began = time.monotonic()
        try:
            sent = os.sendfile(self.sock.fileno(), first.file, first.offset, first.left)
        except BlockingIOError:
            return False
        if first.read is not None:
            first.read(sent, time.monotonic() - began)
        if sent == 0:
            raise StreamLost("the file to send is shorter than it was")
        first.offset += sent
        self._account(first, sent)
        return True

    def _send_gathered(self) -> bool:
        """Send several short items at once."""
        views: list[memoryview] = []
        for item in self._output:
            if item.data is None or len(views) == 64:
                break
            views.append(item.data)
        try:
            left = self.sock.sendmsg(views)
        except BlockingIOError:
            return False
        while left:
            first = self._output[0]
            part = min(left, first.left)
            if first.data is not None:
                first.data = first.data[part:]
            self._account(first, part)
            left -= part
        return True

    def _account(self, first: _Output, sent: int) -> None:
        first.left -= sent
        self.unsent -= sent
        self.bytes_sent += sent
        if first.left == 0:
            self._output.popleft()
            if first.done is not None:
                first.done()

    # Input.

    def receive_into(self, view: memoryview) -> int:
        """Read what is there now into `view`; 0 means nothing is there yet.

        :raise StreamLost: the peer closed the connection, or it broke.
        """
        if (now := time.monotonic()) >= self._sending.next_look:
            self._fit_buffers(now)
        try:
            received = self.sock.recv_into(view)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except OSError as error:
            raise StreamLost(f"receiving: {error}") from error
        if received == 0:
            raise StreamLost("the peer closed the connection")
        self.bytes_received += received
        return received

    def receive_up_to(self, view: memoryview, wanted: int) -> int:
        """Read into `view` until `wanted` bytes are there or no more is there yet; more may come than wanted.

        :raise StreamLost: as `receive_into`.
        """
        received = 0
        while received < wanted and (count := self.receive_into(view[received:])):
            received += count
        return received

    def has_input(self) -> bool:
        """Whether decrypted bytes wait inside the TLS layer, which `poll` cannot see."""
        return isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0

    def _fit_buffers(self, now: float) -> None:
        """Let the kernel hold what the path carries in a round trip, where it would hold less."""
        with contextlib.suppress(OSError):  # a connection that is gone says so where it is used
            info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ROUND_TRIPS.size)
            of_receiving, least = _ROUND_TRIPS.unpack(info)
            round_trip = (of_receiving if least == _UNKNOWN else least) / 1e6
            _enlarge(self.sock, socket.SO_SNDBUF, self._sending.look(now, self.bytes_sent, round_trip))
            _enlarge(self.sock, socket.SO_RCVBUF, self._receiving.look(now, self.bytes_received, round_trip))

    # Waiting.

    def wake_at(self, wanted: int) -> None:
        """Let `wait` end for input only once about `wanted` bytes are there (SO_RCVLOWAT); one byte if unknown."""
        lowest = wanted - TLS_SLACK if self.encrypted else wanted
        lowest = lowest if lowest >= LOWAT_LEAST else 1
        if lowest != self._lowest_input:
            self._lowest_input = lowest
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, lowest)

    def wait(self, timeout: float) -> bool:
        """Wait until there is input, room for queued output, a `wake`, or `timeout` seconds have passed.

        Return False if nothing but time has passed.
        """
        if self.has_input():
            return True
        interest = select.POLLIN | (select.POLLOUT if self._output else 0)
        try:
            self._poll.register(self.sock, interest)
            ready = self._poll.poll(timeout * 1000)
        except (OSError, ValueError) as error:
            raise StreamLost(f"waiting: {error}") from error
        if any(descriptor == self._wake_read for descriptor, _ in ready):
            self._woken = False
            os.read(self._wake_read, 4096)
        return bool(ready)

    def wake(self) -> None:
        """From any thread: end a `wait` now, or the next one at once."""
        if not self._woken:
            self._woken = True
            with self._closing:
                if not self._closed:
                    os.write(self._wake_write, b"!")

    # Whether the peer is there.

    def probe_often(self) -> None:
        """While nothing is sent, ask for a sign of the peer often: `liveness` tells whether it comes."""
        liveness.probe_often(self.sock)

    def liveness(self) -> liveness.Liveness | None:
        """From any thread: what the kernel knows of the peer; None once the stream is closed."""
        with self._closing:
            return None if self._closed else liveness.liveness(self.sock)

    # Whole messages, for the handshake and the relay's ends.

    def send_all(self, data: bytes, timeout: float) -> None:
        """Send `data` now, within `timeout` seconds in all.

        :raise StreamLost: the connection is gone or stuck.
        """
        deadline = time.monotonic() + timeout
        self.queue(data)
        self.flush()
        while self._output:
            self._wait_until(deadline)
            self.flush()

    def receive_exactly(self, size: int, timeout: float) -> bytes:
        """:raise StreamLost: the connection is gone, or not all came within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        data = bytearray(size)
        view = memoryview(data)
        while view:
            received = self.receive_into(view)
            view = view[received:]
            if view and not received:
                self._wait_until(deadline)
        return bytes(data)

    def _wait_until(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise StreamLost("the peer did not answer in time")
        self.wait(left)

    def tcp_info(self) -> TcpInfo:
        """From any thread: what the kernel tells of the connection; zeroes of one that is closed."""
        with self._closing, contextlib.suppress(OSError):
            if not self._closed:
                return read_tcp_info(self.sock)
        return TcpInfo()

    # The end.

    def shutdown(self) -> None:
        """From any thread: break the connection; the thread that drives the stream sees StreamLost."""
        with self._closing:
            if not self._closed:
                with contextlib.suppress(OSError):  # not connected any more
                    socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Release everything; queued data is lost. Only for the thread that drives the stream."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._output.clear()
            self.sock.close()
            os.close(self._wake_read)
            os.close(self._wake_write)


def prepare_socket(sock: socket.socket) -> None:
    """Options of every data connection: no Nagle, little unsent in the kernel, a dead peer is noticed."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_LOW)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def prepare_listener(sock: socket.socket) -> None:
    """Before anybody connects: how large a window a connection can ever have is settled as it is made."""
    _set_buffer(sock, socket.SO_RCVBUF, FIRST)


def _enlarge(sock: socket.socket, option: int, size: int) -> None:
    if size > sock.getsockopt(socket.SOL_SOCKET, option) // 2:  # the kernel tells twice what it was asked for
        _set_buffer(sock, option, size)


def _set_buffer(sock: socket.socket, option: int, size: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _FORCED[option], size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, option, size)
