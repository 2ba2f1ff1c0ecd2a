"""The mirror target: one export on a Unix socket, for one connection of one QEMU.

One thread accepts, negotiates and then hands every request to the handler. Replies come from any thread. The server
lives for one transmission: a connection that ends before it is followed by the next, one that ends after it is not,
because QEMU fails the mirror job then and a cookie of the old connection must never be answered on a new one.

Invariant: no request is ever answered with an error. Requests in flight fail together, by closing the socket: after
a single error QEMU 7.2 (block/mirror.c) may free the mirror job under the feet of the others.

Replies given inside a handler's call go out together, once all requests that came in one receive are handled.
Does not watch the time: `oldest_arrival()` tells its owner how long QEMU has been waiting, and `abort()` ends it.
"""

import contextlib
import os
import socket
import stat
import threading
from collections.abc import Iterable
from pathlib import Path
from threading import get_ident
from time import monotonic

from kvmove.errors import InvalidInput, MoveFailed
from kvmove.log_context import inherited
from kvmove.nbd.handshake import Handshake, HandshakeState
from kvmove.nbd.protocol import Export, ProtocolError
from kvmove.nbd.transmission import RequestHandler, Requests, encode_reply

HANDSHAKE_SECONDS = 10.0
"""A client that has not asked for the export by then is shut out, so that the next can come."""

PRIORITY = -10
"""Nice value of the server's thread (Linux has one for each thread): a guest's write waits for it, and little work at
that. On a busy machine nothing else of the agent comes before it."""

MAX_SOCKET_PATH = 107
"""Linux: sun_path holds 108 bytes with the final zero."""


class NbdServer:
    """Serves `export` of `size` bytes on the socket `path` (mode 0600) to one QEMU, which only writes.

    After `start()` call `close()` in the end. `handler.on_disconnect(reason)` comes exactly once, from the server's
    thread, when the transmission has ended for whatever reason, or when the server was ended before it had one.
    """

    def __init__(
        self, path: Path, export: str, size: int, handler: RequestHandler, *, offer_flush: bool = False
    ) -> None:
        self._path = path
        self._export = Export(export, size, offer_flush)
        self._handler = handler
        self._requests = Requests(size, handler)
        self._arrivals = self._requests.arrivals
        self._listener: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._lock = threading.Lock()  # guards the sending side and the end of the connection
        self._batch: list[bytes] = []  # replies given by the server's own thread; touched by no other
        self._reason = ""
        self._thread = threading.Thread(target=inherited(self._run), name=f"nbd-{export}", daemon=True)
        self._thread_id = 0

    # Life

    def start(self) -> None:
        """Listen and accept in a thread of its own. A socket left over at `path` is replaced.

        :raise InvalidInput: the path is too long for a socket, or something else than a socket lies there.
        :raise MoveFailed: the socket cannot be made. After either there is nothing to close.
        """
        if len(os.fsencode(self._path)) > MAX_SOCKET_PATH:
            raise InvalidInput(
                f"the path {self._path} is too long for a Unix socket", hint="Choose a shorter `run` folder."
            )
        if self._path.exists():
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise InvalidInput(f"{self._path} exists and is no socket", hint="Remove it.")
            self._path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listener.fileno(), 0o600)  # before bind: Linux gives the file the socket's mode, so no gap
            listener.bind(str(self._path))
            listener.listen(1)
        except OSError as error:
            listener.close()
            raise MoveFailed(f"cannot listen on {self._path}: {error.strerror}") from error
        self._listener = listener
        self._thread.start()

    def abort(self, reason: str) -> None:
        """Cut the connection now; all requests in flight fail together at QEMU. From any thread, any number of times.

        Returns at once; `on_disconnect(reason)` follows from the server's thread. Later replies are dropped.
        """
        with self._lock:
            self._cut(reason)

    def close(self) -> None:
        """`abort()`, then wait for the thread and remove the socket file. Not to be called while holding a lock that
        the handler takes; inside a handler's call it does not wait."""
        self.abort("the server was closed")
        if self._thread.ident is not None and self._thread_id != get_ident():
            self._thread.join()
        if self._listener is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)

    # Replies

    def reply(self, cookie: int) -> bool:
        """Tell QEMU that the request `cookie` is done. False when it is not in flight (any more)."""
        if self._arrivals.pop(cookie, None) is None:
            return False
        if get_ident() == self._thread_id:
            self._batch.append(encode_reply(cookie))
        else:
            self._send(encode_reply(cookie))
        return True

    def reply_many(self, cookies: Iterable[int]) -> int:
        """Tell QEMU that these requests are done, in one send. Return how many of them were in flight.

        Never blocks and never raises: a connection that does not take a reply is cut.
        """
        arrivals = self._arrivals
        replies = [encode_reply(cookie) for cookie in cookies if arrivals.pop(cookie, None) is not None]
        if get_ident() == self._thread_id:
            self._batch += replies
        elif replies:
            self._send(b"".join(replies))
        return len(replies)

    # What a watchdog needs

    def in_flight(self) -> int:
        """How many requests QEMU waits for."""
        return len(self._arrivals)

    def oldest_arrival(self) -> float | None:
        """When the oldest request in flight came (`time.monotonic`); None when there is none."""
        return min(list(self._arrivals.values()), default=None)

    # The thread

    def _run(self) -> None:
        self._thread_id = get_ident()
        with contextlib.suppress(PermissionError):  # then it has to do without
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PRIORITY)
        try:
            reason = self._serve()
        except (ProtocolError, OSError) as error:
            reason = str(error)
        except Exception as error:  # a handler's: QEMU must not wait for an answer that nobody will give
            reason = f"the handler of {self._export.name} failed: {error!r}"
        with self._lock:
            self._cut(reason)
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._arrivals.clear()
        self._handler.on_disconnect(self._reason)

    def _serve(self) -> str:
        connection, rest = self._accept()
        connection.settimeout(None)
        requests = self._requests
        while rest:  # what a client sent behind its last option
            room = requests.room()
            taken = min(len(rest), len(room))
            room[:taken] = rest[:taken]
            rest = rest[taken:]
            self._handle(connection, taken)
        while not requests.ended:
            count = connection.recv_into(requests.room())
            if not count:
                return "QEMU closed the connection"
            self._handle(connection, count)
        return "QEMU disconnected"

    def _handle(self, connection: socket.socket, count: int) -> None:
        requests = self._requests
        requests.received(count, monotonic())
        if missing := requests.missing():
            self._flush_batch()
            requests.finish(_receive_exactly(connection, missing), monotonic())
        self._flush_batch()

    def _flush_batch(self) -> None:
        if self._batch:
            self._send(b"".join(self._batch))
            self._batch.clear()

    def _accept(self) -> tuple[socket.socket, bytes]:
        """Take connections until one wants to transmit; then nobody else can come."""
        assert self._listener is not None
        while True:
            connection, _ = self._listener.accept()
            with self._lock:
                if self._reason:
                    connection.close()
                    raise OSError(self._reason)
                self._connection = connection
            rest = self._negotiate(connection)
            if rest is not None:
                self._listener.shutdown(socket.SHUT_RDWR)
                return connection, rest
            with self._lock:
                self._connection = None
            connection.close()

    def _negotiate(self, connection: socket.socket) -> bytes | None:
        """What came behind the last option; None when the client left or misbehaved."""
        handshake = Handshake(self._export)
        deadline = monotonic() + HANDSHAKE_SECONDS
        try:
            connection.settimeout(HANDSHAKE_SECONDS)
            connection.sendall(handshake.greeting())
            while handshake.state in (HandshakeState.FLAGS, HandshakeState.OPTIONS):
                connection.settimeout(max(0.001, deadline - monotonic()))
                data = connection.recv(4096)
                if not data:
                    return None
                connection.sendall(handshake.receive(data))
        except (ProtocolError, OSError):
            return None
        return handshake.rest if handshake.state is HandshakeState.READY else None

    # With the lock

    def _send(self, data: bytes) -> None:
        with self._lock:
            if self._connection is None or self._reason:
                return
            try:
                # Without waiting: replies are 16 bytes each, so only a client that reads none of them fills the buffer.
                sent = self._connection.send(data, socket.MSG_DONTWAIT)
            except OSError as error:
                self._cut(f"QEMU does not take replies: {error.strerror}")
            else:
                if sent != len(data):
                    self._cut("QEMU does not take replies")

    def _cut(self, reason: str) -> None:
        """End both sockets for their readers; the first reason stays. The thread closes them."""
        self._reason = self._reason or reason
        for end in (self._connection, self._listener):
            if end is not None:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # was not connected any more


def _receive_exactly(connection: socket.socket, count: int) -> bytes:
    """`count` bytes, usually in one piece that is not copied again."""
    data = connection.recv(count, socket.MSG_WAITALL)
    while len(data) < count:
        more = connection.recv(count - len(data), socket.MSG_WAITALL)
        if not more:
            raise ProtocolError("QEMU closed the connection in the middle of a write")
        data += more
    return data
