"""A client for an export of a QEMU, or of its storage daemon, on a Unix socket. Blocking, for threads.

A few connections, each with one request at a time: as many threads are served at once as there are connections, and
the others wait. More than one are opened only if the server says that they see each other's writes.

Invariant: after a connection broke nothing succeeds any more, though the server may be there again: what it had not
flushed may be lost. An error that the server tells of one request (no space, an I/O error) breaks nothing.

A server that does not answer fails the request after a time and does not hang the caller.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from kvmove.errors import MoveFailed
from kvmove.nbd.connection import Connection
from kvmove.nbd.protocol import (
    COMMAND_BLOCK_STATUS,
    COMMAND_FLAG_NO_HOLE,
    COMMAND_FLUSH,
    COMMAND_WRITE,
    COMMAND_WRITE_ZEROES,
    MAX_PAYLOAD,
    ExportFlag,
    ProtocolError,
)
from kvmove.nbd.replies import Refused, StatusRun
from kvmove.units import MIB

SERVER_SECONDS = 60.0
"""So long may a server not move at all: storage that fails over to another path takes half of it."""

CONNECTIONS = 4

STATUS_MOST = 64 * MIB
"""Bytes asked about at once: 16,384 runs at worst, of 8 bytes each."""


class NbdError(MoveFailed):
    """A request failed. `number` is the errno that the server told, or 0 when it answered no more."""

    def __init__(self, detail: str, number: int = 0) -> None:
        super().__init__(detail)
        self.number = number


class NbdClient:
    """The export `export` at the socket `path`. Offsets and lengths are bytes of any alignment, inside of `size`."""

    def __init__(
        self, path: Path, export: str, *, contexts: Sequence[str] = (), timeout: float = SERVER_SECONDS
    ) -> None:
        """Connect. `contexts` are the meta contexts that `block_status` is wanted for.

        :raise NbdError: nobody serves it there, or the server does not know one of `contexts`. Nothing is left.
        """
        self.path = path
        self.export = export
        self._contexts = tuple(contexts)
        self._timeout = timeout
        self._lock = threading.Lock()
        self._lost = ""
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        first = self._connect()
        self._idle.append(first)
        self.size = first.agreement.size
        self._flags = first.agreement.flags
        self._slots = threading.Semaphore(CONNECTIONS if self._flags & ExportFlag.CAN_MULTI_CONN else 1)
        missing = set(self._contexts) - set(first.agreement.contexts.values())
        if missing:
            self.close()
            raise NbdError(f"{self._server()} does not know {', '.join(sorted(missing))}")

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset`.

        :raise NbdError: it cannot be read; what the buffer holds is undefined.
        """
        for start, length in _pieces(offset, len(buffer), MAX_PAYLOAD):
            view = buffer[start - offset : start - offset + length]
            with self._connection(f"read {length} bytes at {start}") as connection:
                connection.read(start, view)

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data`.

        :raise NbdError: how much of it was written is unknown.
        """
        for start, length in _pieces(offset, len(data), MAX_PAYLOAD):
            view = data[start - offset : start - offset + length]
            with self._connection(f"write {length} bytes at {start}") as connection:
                connection.run(COMMAND_WRITE, 0, start, length, view)

    def write_zeroes(self, offset: int, length: int, *, may_punch: bool) -> None:
        """Make a range zero; with `may_punch` its space may be given back, else it stays allocated.

        :raise NbdError: how much of it is zero is unknown.
        """
        flags = 0 if may_punch else COMMAND_FLAG_NO_HOLE
        for start, count in _pieces(offset, length, MAX_PAYLOAD):
            with self._connection(f"make {count} bytes at {start} zero") as connection:
                connection.run(COMMAND_WRITE_ZEROES, flags, start, count)

    def flush(self) -> None:
        """Make durable what was written, over whichever connection.

        :raise NbdError: the image cannot be trusted any more; throw it away.
        """
        if not self._flags & ExportFlag.SEND_FLUSH:
            raise NbdError(f"{self._server()} cannot make writes durable")
        with self._connection("make it durable") as connection:
            connection.run(COMMAND_FLUSH, 0, 0, 0)

    def block_status(self, offset: int, length: int) -> dict[str, list[StatusRun]]:
        """The runs from `offset` on in each of the contexts, in order and without gaps, at least one.

        They may cover less than `length`, or end behind it. At most STATUS_MOST bytes are asked about.

        :raise NbdError: the server cannot tell.
        """
        length = min(length, STATUS_MOST)
        with self._connection(f"find the data of {length} bytes at {offset}") as connection:
            found = connection.status(COMMAND_BLOCK_STATUS, offset, length)
            if not all(found.get(context) for context in self._contexts):
                raise ProtocolError("it left out a context")
            return found

    def close(self) -> None:
        """End all connections; requests under way fail. Not a `flush`. May be called twice."""
        with self._lock:
            self._lost = self._lost or "the client was closed"
            idle, self._idle = self._idle, []
            busy = self._open.difference(idle)
            self._open.clear()
        for connection in idle:
            connection.close()
        for connection in busy:
            connection.cut()

    @contextlib.contextmanager
    def _connection(self, what: str) -> Iterator[Connection]:
        """A connection for one request; `what` is what it does. What fails in it becomes an NbdError."""
        with self._slots:
            connection = self._take(what)
            try:
                yield connection
            except Refused as refusal:
                self._give_back(connection)
                raise NbdError(f"{self._server()} cannot {what}: {refusal}", refusal.number) from refusal
            except BaseException as error:
                self._lose(connection, error)
                if isinstance(error, OSError | ProtocolError):
                    raise NbdError(f"{self._server()} failed to {what}: {_reason(error)}") from error
                raise
            self._give_back(connection)

    def _take(self, what: str) -> Connection:
        with self._lock:
            if self._lost:
                raise NbdError(f"cannot {what}: {self._lost}")
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if not self._lost:
                self._idle.append(connection)
                return
        connection.close()

    def _lose(self, connection: Connection, error: BaseException) -> None:
        with self._lock:
            self._lost = self._lost or f"{self._server()} was lost: {_reason(error)}"
            self._open.discard(connection)
        connection.cut()  # a goodbye would be taken for the rest of an unfinished write
        connection.close()

    def _connect(self) -> Connection:
        try:
            connection = Connection(self.path, self.export, self._contexts, self._timeout)
        except (OSError, ProtocolError) as error:
            raise NbdError(f"{self._server()} cannot be used: {_reason(error)}") from error
        with self._lock:
            if not self._lost:
                self._open.add(connection)
                return connection
        connection.close()
        raise NbdError(self._lost)

    def _server(self) -> str:
        return f"the NBD server of {self.export} at {self.path}"


def _pieces(offset: int, length: int, most: int) -> Iterator[tuple[int, int]]:
    for start in range(offset, offset + length, most):
        yield start, min(most, offset + length - start)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or repr(error)
