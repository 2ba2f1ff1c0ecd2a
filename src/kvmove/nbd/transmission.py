"""The transmission phase: received bytes become calls on a handler. PURE: the clock and the bytes come in.

The hot path of a move: thousands of 4 KiB guest writes a second pass here while other threads want the interpreter.
So there is one buffer that requests are received into, many at a time, one unpack per header, one copy per payload
and no object per request. A payload that is not small is asked for by `missing()` and given by `finish()`, so that
it is received where it stays.

Invariant: nothing is allocated for a payload before its header was checked (at most 32 MiB, inside the disk), no
cookie is in flight twice, and at most MAX_IN_FLIGHT requests are. Every request that was handed to the handler is
in `arrivals` until it is answered.

Does not answer: the handler decides when a request is answered, and the server sends it. There are no error replies
at all, see `server`: whatever cannot be done ends the connection.
"""

from typing import Protocol

from kvmove.nbd.protocol import (
    COMMAND_DISCONNECT,
    COMMAND_FLAG_NO_HOLE,
    COMMAND_FLUSH,
    COMMAND_READ,
    COMMAND_TRIM,
    COMMAND_WRITE,
    COMMAND_WRITE_ZEROES,
    MAX_PAYLOAD,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    ProtocolError,
)
from kvmove.units import KIB

RECEIVE_BUFFER = 128 * KIB
"""Holds QEMU's 16 requests in flight at 4 KiB each, twice over."""

DIRECT_PAYLOAD = 32 * KIB
"""From this length on a payload that has not wholly arrived is received into memory of its own."""

MAX_IN_FLIGHT = 1024
"""Far above QEMU's 16 for one NBD node (block/nbd.c, MAX_NBD_REQUESTS): a client beyond it is not QEMU."""

HEADER = REQUEST.size
_WITH_RANGE = frozenset((COMMAND_WRITE, COMMAND_WRITE_ZEROES, COMMAND_TRIM))


class RequestHandler(Protocol):
    """Takes the guest's writes. Called from the server's one reader thread, in the order of arrival; must not block.

    Each request is answered once, by `NbdServer.reply(cookie)`, from any thread, also from inside the call. Offsets
    and lengths are bytes, lie inside the disk and need no alignment. An exception ends the connection.
    """

    def on_write(self, cookie: int, offset: int, payload: bytes) -> None: ...

    def on_zero(self, cookie: int, offset: int, length: int, may_punch: bool) -> None: ...

    def on_trim(self, cookie: int, offset: int, length: int) -> None: ...

    def on_flush(self, cookie: int) -> None: ...

    def on_disconnect(self, reason: str) -> None: ...


def encode_reply(cookie: int) -> bytes:
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, cookie)


def check_request(command: int, offset: int, length: int, size: int) -> None:
    """Refuse what no well-behaved writer sends to a disk of `size` bytes.

    :raise ProtocolError: a read, an unknown command, empty or overlong, or outside the disk.
    """
    if command in _WITH_RANGE:
        if not 0 < length <= size - offset:
            raise ProtocolError(f"an NBD request of {length} bytes at {offset} is outside of the {size} byte disk")
        if command == COMMAND_WRITE and length > MAX_PAYLOAD:
            raise ProtocolError(f"an NBD write of {length} bytes is longer than {MAX_PAYLOAD}")
    elif command == COMMAND_READ:
        raise ProtocolError("the NBD client tried to read; a mirror target only takes writes")
    elif command not in (COMMAND_FLUSH, COMMAND_DISCONNECT):
        raise ProtocolError(f"the NBD client sent the unknown command {command}")


class Requests:
    """Cuts the byte stream of one connection into requests and calls `handler` for each.

    Use: receive into `room()`, tell `received()`; while `missing()` is not 0, receive exactly so many bytes and give
    them to `finish()`. `ended` is set when the client said goodbye.
    """

    def __init__(self, size: int, handler: RequestHandler) -> None:
        self.arrivals: dict[int, float] = {}
        self.ended = False
        self._size = size
        self._handler = handler
        self._buffer = bytearray(RECEIVE_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._missing = 0

    def room(self) -> memoryview:
        """Where to receive next; never empty."""
        return self._view[self._end :] if self._end else self._view

    def missing(self) -> int:
        """Bytes of a long payload that have not arrived; 0 when the next bytes go into `room()`."""
        return self._missing

    def received(self, count: int, now: float) -> None:
        """Handle every whole request after `count` more bytes; `now` is when they came.

        :raise ProtocolError: the client broke the protocol; close the connection.
        """
        self._end += count
        view, size, handler = self._view, self._size, self._handler
        start, end = self._start, self._end
        while end - start >= HEADER and not self.ended:
            magic, flags, command, cookie, offset, length = REQUEST.unpack_from(view, start)
            if magic != REQUEST_MAGIC:
                raise ProtocolError("the NBD client sent something that is no request")
            check_request(command, offset, length, size)
            if command == COMMAND_WRITE:
                after = start + HEADER + length
                if after > end:
                    self._missing = after - end if length >= DIRECT_PAYLOAD else 0
                    break
                self._admit(cookie, now)
                handler.on_write(cookie, offset, bytes(view[start + HEADER : after]))
                start = after
            else:
                self._other(command, flags, cookie, offset, length, now)
                start += HEADER
        self._start = start
        self._make_room()

    def finish(self, tail: bytes, now: float) -> None:
        """Handle the long write whose last `missing()` bytes are `tail`."""
        _, _, _, cookie, offset, _ = REQUEST.unpack_from(self._view, self._start)
        head = self._start + HEADER
        payload = tail if head == self._end else b"".join((self._view[head : self._end], tail))
        self._start = self._end = self._missing = 0
        self._admit(cookie, now)
        self._handler.on_write(cookie, offset, payload)

    def _admit(self, cookie: int, now: float) -> None:
        arrivals = self.arrivals
        if cookie in arrivals:
            raise ProtocolError("the NBD client used the cookie of a request that is still in flight")
        if len(arrivals) >= MAX_IN_FLIGHT:
            raise ProtocolError(f"the NBD client has more than {MAX_IN_FLIGHT} requests in flight")
        arrivals[cookie] = now

    def _other(self, command: int, flags: int, cookie: int, offset: int, length: int, now: float) -> None:
        if command == COMMAND_DISCONNECT:
            self.ended = True
            return
        self._admit(cookie, now)
        if command == COMMAND_WRITE_ZEROES:
            self._handler.on_zero(cookie, offset, length, not flags & COMMAND_FLAG_NO_HOLE)
        elif command == COMMAND_TRIM:
            self._handler.on_trim(cookie, offset, length)
        else:
            self._handler.on_flush(cookie)

    def _make_room(self) -> None:
        """Move an unfinished request to the front when it might not fit behind itself."""
        if self._start == self._end:
            self._start = self._end = 0
        elif RECEIVE_BUFFER - self._start < HEADER + DIRECT_PAYLOAD and not self._missing:
            left = self._end - self._start
            self._view[:left] = self._view[self._start : self._end]
            self._start, self._end = 0, left
