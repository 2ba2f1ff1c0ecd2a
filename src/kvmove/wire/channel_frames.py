"""The frames of a memory channel, the same in both directions. Pure.

Every frame begins with a header of 9 bytes, big-endian: kind (1), value (8).

    kind      payload       meaning
    DATA      value bytes   the next bytes of QEMU's connection
    ACK       none          `value` positions have been passed on to the QEMU here; also sent while nothing changes,
                            as a sign of life
    AT        none          the first frame of each connection, each way: `value` positions have been passed on here,
                            send from there on. Nothing else is sent before the peer's has come
    END       none          the QEMU here has closed its end, after all that came before
    GIVEN_UP  none          nothing more will come, and it will not be resumed

Positions count the bytes of one direction over all connections of the channel; END takes one position, so it is
acknowledged and sent again as bytes are.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

HEADER = struct.Struct("!BQ")
HEADER_SIZE = HEADER.size

MAX_PAYLOAD = 1024 * 1024
"""Largest DATA frame, bytes. A receiver passes it on in pieces as they come, and never holds a whole one."""

NOTHING = memoryview(b"")


class ChannelFrameKind(IntEnum):
    DATA = 1
    ACK = 2
    AT = 3
    END = 4
    GIVEN_UP = 5


class ChannelFrameError(ValueError):
    """The peer sent what is no frame of a channel, or one that may not come now: the channel must end."""


class Piece(NamedTuple):
    """A frame without payload, or as much of a DATA frame's payload as is there."""

    kind: ChannelFrameKind
    value: int = 0
    payload: memoryview = NOTHING


def encode(kind: ChannelFrameKind, value: int = 0) -> bytes:
    """The header; the payload of DATA is to follow."""
    return HEADER.pack(kind, value)


class ChannelFrameReader:
    """Takes the bytes of one connection apart, in whatever pieces they come."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._payload_left = 0

    def read(self, data: memoryview) -> tuple[Piece | None, memoryview]:
        """The first piece of `data`, None if there is none yet, and what follows it.

        :raise ChannelFrameError: unknown kind, or a payload above MAX_PAYLOAD.
        """
        if not self._payload_left:
            missing = HEADER_SIZE - len(self._header)
            self._header += data[:missing]
            data = data[missing:]
            if len(self._header) < HEADER_SIZE:
                return None, data
            kind, value = self._decode()
            if kind is not ChannelFrameKind.DATA:
                return Piece(kind, value), data
            self._payload_left = value
        if not data:
            return None, data
        payload = data[: self._payload_left]
        self._payload_left -= len(payload)
        return Piece(ChannelFrameKind.DATA, len(payload), payload), data[len(payload) :]

    def _decode(self) -> tuple[ChannelFrameKind, int]:
        number, value = HEADER.unpack(self._header)
        self._header.clear()
        try:
            kind = ChannelFrameKind(number)
        except ValueError as error:
            raise ChannelFrameError(f"a channel's frame of kind {number} is not known") from error
        if kind is ChannelFrameKind.DATA and not 0 < value <= MAX_PAYLOAD:
            raise ChannelFrameError(f"a channel's frame with {value} bytes")
        return kind, value
