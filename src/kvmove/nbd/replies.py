"""What a server answers to a client's request: simple replies, and structured ones in chunks. PURE: bytes come through
a function.

Invariant: a read that returns has filled every byte of its buffer. An error that the server tells (`Refused`) leaves
the connection between two replies, so it can be used on; everything else (`ProtocolError`) does not.

One request at a time is under way on a connection, so a reply with another cookie is a broken server.
"""

import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from kvmove.nbd.protocol import (
    CHUNK,
    CHUNK_DATA,
    CHUNK_FLAG_DONE,
    CHUNK_HOLE,
    CHUNK_IS_ERROR,
    CHUNK_MAGIC,
    CHUNK_NONE,
    CHUNK_OFFSET,
    CHUNK_STATUS,
    CONTEXT_ID,
    ERROR_CHUNK,
    HOLE_CHUNK,
    MAX_PAYLOAD,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STATUS,
    ProtocolError,
)

Fill = Callable[[memoryview], None]
"""Fills the buffer with the connection's next bytes, or raises."""


class Refused(Exception):
    """The server could not do a request and said so. `number` is an errno; NBD's numbers are those of Linux."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(f"{os.strerror(number)} ({message})" if message else os.strerror(number))
        self.number = number


class StatusRun(NamedTuple):
    """`length` bytes whose state in one meta context is `flags`."""

    length: int
    flags: int


class _Chunk(NamedTuple):
    kind: int
    is_last: bool
    length: int


def encode_request(command: int, flags: int, cookie: int, offset: int, length: int) -> bytes:
    return REQUEST.pack(REQUEST_MAGIC, flags, command, cookie, offset, length)


def take_done(fill: Fill, cookie: int) -> None:
    """The answer to a request that brings no data.

    :raise Refused: see there. :raise ProtocolError: see there.
    """
    head = bytearray(CHUNK.size)
    fill(memoryview(head)[: SIMPLE_REPLY.size])
    if int.from_bytes(head[:4], "big") == SIMPLE_REPLY_MAGIC:
        _check_simple(head, cookie)
        return
    fill(memoryview(head)[SIMPLE_REPLY.size :])
    chunk = _decode(head, cookie)
    if chunk.kind != CHUNK_NONE or chunk.length or not chunk.is_last:
        raise _take_error(fill, chunk) if chunk.kind & CHUNK_IS_ERROR else _unexpected(chunk)


def take_plain_data(fill: Fill, cookie: int, buffer: memoryview) -> None:
    """The answer to a read, by a server without structured replies. Raises as `take_done` does."""
    head = bytearray(SIMPLE_REPLY.size)
    fill(memoryview(head))
    _check_simple(head, cookie)
    fill(buffer)


def take_data(fill: Fill, cookie: int, buffer: memoryview, start: int) -> None:
    """The answer to a read of the disk's bytes from `start` on, in any number of chunks, in any order.

    Raises as `take_done` does; what the buffer holds then is undefined.
    """
    done, failure, is_last = 0, None, False
    while not is_last:
        chunk = _take_chunk(fill, cookie)
        is_last = chunk.is_last
        if chunk.kind == CHUNK_DATA and chunk.length >= CHUNK_OFFSET.size:
            (offset,) = CHUNK_OFFSET.unpack(_take(fill, CHUNK_OFFSET.size))
            length = chunk.length - CHUNK_OFFSET.size
            fill(_part(buffer, offset - start, length))
            done += length
        elif chunk.kind == CHUNK_HOLE and chunk.length == HOLE_CHUNK.size:
            offset, length = HOLE_CHUNK.unpack(_take(fill, HOLE_CHUNK.size))
            _part(buffer, offset - start, length)[:] = bytes(length)
            done += length
        elif chunk.kind & CHUNK_IS_ERROR:
            refusal = _take_error(fill, chunk)
            failure = failure or refusal
        elif chunk.kind != CHUNK_NONE or chunk.length:
            raise _unexpected(chunk)
    if failure is not None:
        raise failure
    if done != len(buffer):
        raise ProtocolError(f"the NBD server answered a read of {len(buffer)} bytes with {done}")


def take_status(fill: Fill, cookie: int) -> dict[int, list[StatusRun]]:
    """The answer to a question for the block status: the runs from its offset on, by the number of the meta context.

    The runs of two contexts may end at different places. Raises as `take_done` does.
    """
    found: dict[int, list[StatusRun]] = {}
    failure, is_last = None, False
    while not is_last:
        chunk = _take_chunk(fill, cookie)
        is_last = chunk.is_last
        if chunk.kind == CHUNK_STATUS and chunk.length % STATUS.size == CONTEXT_ID.size:
            payload = _take(fill, chunk.length)
            (number,) = CONTEXT_ID.unpack_from(payload)
            found[number] = [StatusRun(*run) for run in STATUS.iter_unpack(payload[CONTEXT_ID.size :])]
            if not all(run.length for run in found[number]):
                raise ProtocolError("the NBD server told the status of no bytes")
        elif chunk.kind & CHUNK_IS_ERROR:
            refusal = _take_error(fill, chunk)
            failure = failure or refusal
        elif chunk.kind != CHUNK_NONE or chunk.length:
            raise _unexpected(chunk)
    if failure is not None:
        raise failure
    return found


def _check_simple(head: bytearray, cookie: int) -> None:
    magic, error, answered = SIMPLE_REPLY.unpack_from(head)
    if magic != SIMPLE_REPLY_MAGIC or answered != cookie:
        raise ProtocolError("the NBD server sent something that is no reply to our request")
    if error:
        raise Refused(error)


def _take_chunk(fill: Fill, cookie: int) -> _Chunk:
    head = bytearray(CHUNK.size)
    fill(memoryview(head))
    return _decode(head, cookie)


def _decode(head: bytearray, cookie: int) -> _Chunk:
    magic, flags, kind, answered, length = CHUNK.unpack(head)
    if magic != CHUNK_MAGIC or answered != cookie:
        raise ProtocolError("the NBD server sent something that is no reply to our request")
    if length > MAX_PAYLOAD + CHUNK_OFFSET.size:
        raise ProtocolError(f"the NBD server sent a chunk of {length} bytes; {MAX_PAYLOAD} are allowed")
    return _Chunk(kind, bool(flags & CHUNK_FLAG_DONE), length)


def _take_error(fill: Fill, chunk: _Chunk) -> Refused:
    payload = _take(fill, chunk.length)
    if len(payload) < ERROR_CHUNK.size:
        raise _unexpected(chunk)
    number, length = ERROR_CHUNK.unpack_from(payload)
    return Refused(number or errno.EIO, payload[ERROR_CHUNK.size :][:length].decode(errors="replace"))


def _part(buffer: memoryview, start: int, length: int) -> memoryview:
    if not 0 <= start <= len(buffer) - length:
        raise ProtocolError("the NBD server sent data that was not asked for")
    return buffer[start : start + length]


def _take(fill: Fill, count: int) -> bytes:
    data = bytearray(count)
    fill(memoryview(data))
    return bytes(data)


def _unexpected(chunk: _Chunk) -> ProtocolError:
    return ProtocolError(f"the NBD server sent an unexpected chunk of type {chunk.kind} with {chunk.length} bytes")
