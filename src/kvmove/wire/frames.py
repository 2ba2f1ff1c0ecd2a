"""The frames of a disk stream. Pure.

Every frame begins with a header of 16 bytes, big-endian: kind (1), flags (1), disk (2), length (4), offset (8).

    kind     from         payload        meaning
    DATA     source       length bytes   write them at offset of the disk
    ZEROES   source       none           length bytes at offset of the disk are zero; a hole where the storage can
    FENCE    source       none           stop stream `offset`; once acknowledged, nothing more of it is applied
    ACK      destination  none           all frames up to number `offset` (counted from 1) of this stream are applied
    FAILED   destination  length bytes   UTF-8: why the destination cannot go on with this move (disk full, I/O error)
    DATA_ZSTD  source     length bytes   data of offset, compressed (see `compressed`), for a destination that knows it

A stream applies its frames in order; acknowledged means applied. The frame's number is not sent: both count.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

HEADER = struct.Struct("!BBHIQ")
HEADER_SIZE = HEADER.size

MAX_PAYLOAD = 1024 * 1024
"""Largest payload of a frame, bytes: bounds what a receiver must hold; the sender's chunks are smaller."""

MAX_REASON = 1024
"""Largest text of a FAILED frame, bytes."""


class FrameKind(IntEnum):
    INVALID = 0
    DATA = 1
    ZEROES = 2
    FENCE = 3
    ACK = 4
    FAILED = 5
    DATA_ZSTD = 6


WITH_PAYLOAD = frozenset({FrameKind.DATA, FrameKind.DATA_ZSTD, FrameKind.FAILED})
"""Kinds of which `length` bytes follow the header."""

FROM_SOURCE = (FrameKind.DATA, FrameKind.ZEROES, FrameKind.FENCE, FrameKind.DATA_ZSTD)
"""What a destination of this version takes."""

_LONGEST = {FrameKind.DATA: MAX_PAYLOAD, FrameKind.DATA_ZSTD: MAX_PAYLOAD, FrameKind.FAILED: MAX_REASON}


class Frame(NamedTuple):
    """A decoded header. `length` (bytes) is that of the payload, for ZEROES that of the zeroed range."""

    kind: FrameKind
    disk: int
    length: int
    offset: int


class FrameError(ValueError):
    """The peer sent what is no frame: the stream must end."""


def data_header(disk: int, offset: int, length: int) -> bytes:
    return HEADER.pack(FrameKind.DATA, 0, disk, length, offset)


def zstd_header(disk: int, offset: int, length: int) -> bytes:
    return HEADER.pack(FrameKind.DATA_ZSTD, 0, disk, length, offset)


def zeroes(disk: int, offset: int, length: int) -> bytes:
    return HEADER.pack(FrameKind.ZEROES, 0, disk, length, offset)


def fence(stream: int) -> bytes:
    return HEADER.pack(FrameKind.FENCE, 0, 0, 0, stream)


def ack(count: int) -> bytes:
    return HEADER.pack(FrameKind.ACK, 0, 0, 0, count)


def failed(reason: str) -> bytes:
    text = reason.encode()[:MAX_REASON]
    return HEADER.pack(FrameKind.FAILED, 0, 0, len(text), 0) + text


def decode(buffer: bytes | bytearray | memoryview, start: int = 0) -> Frame:
    """Decode the header at `start` of `buffer`, which holds at least 16 bytes from there.

    :raise FrameError: unknown kind, flags that this version does not know, or a payload above MAX_PAYLOAD.
    """
    kind, flags, disk, length, offset = HEADER.unpack_from(buffer, start)
    if not FrameKind.DATA <= kind <= FrameKind.DATA_ZSTD or flags:
        raise FrameError(f"frame of kind {kind} with flags {flags:#x} is not known")
    if length > _LONGEST.get(FrameKind(kind), length):
        raise FrameError(f"frame with {length} bytes is longer than may be")
    return Frame(FrameKind(kind), disk, length, offset)
