"""One end of a memory channel: a reliable byte stream, both ways, over connections that may be replaced. Pure.

What is taken from the QEMU here is kept, at most WINDOW bytes, until the other end has passed it on to its QEMU; when
that is full no more is taken. On a new connection each end says first how much it has passed on (AT), and the other
sends again from there.

Invariant: what is passed on at one end is, at any time, the beginning of what was taken at the other: no byte is lost,
doubled or out of order, wherever connections break. Only what was acknowledged is dropped, and only what was passed on
is acknowledged.

    taken -> sent -> (passed on there) -> acknowledged         this end's direction out
    passed on -> told                                          the other direction

The bytes lie in a ring of `window` bytes, into which QEMU's are read and from which they are sent: nothing is copied.
Deliberately not here: sockets, time, and when a connection is replaced.
"""

from __future__ import annotations

import mmap

from kvmove.wire.channel_frames import (
    NOTHING,
    ChannelFrameError,
    ChannelFrameKind,
    ChannelFrameReader,
    Piece,
    encode,
)

WINDOW = 16 * 1024 * 1024
"""Bytes kept for sending again, each way: 10 Gbit/s at 13 ms of round trip. Memory is used only as far as it fills."""

ACK_EVERY = 1024 * 1024
"""Bytes passed on that are worth telling at once; a sixteenth of the window, so it never stands still for the word."""

CHUNK = 256 * 1024
"""Most bytes of a DATA frame."""


class ChannelEnd:
    """See the file's head. Positions count bytes from the channel's beginning, END as one."""

    def __init__(self, window: int = WINDOW, ack_every: int = ACK_EVERY) -> None:
        self.taken = 0
        self.acknowledged = 0
        self.passed_on = 0
        self.is_ended = False
        """The QEMU here has closed its end."""
        self.is_ended_there = False
        """The QEMU there has, and all that it sent was passed on."""
        self.is_given_up_there = False
        self._window = window
        self._ack_every = ack_every
        # a bytearray would be filled with zeroes, and so take all of it at once
        self._ring = memoryview(mmap.mmap(-1, window, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self._sent = 0
        self._furthest = 0
        self._told = 0
        self._may_send = False
        self._reader = ChannelFrameReader()

    # What comes from the QEMU here.

    def room(self) -> memoryview:
        """Where to read from QEMU into, then call `took`; empty while nothing may be taken: all that was taken is to
        be given to a connection first, so what the network does not take waits in QEMU."""
        if self.is_ended or not self._may_send or self._sent < self.taken:
            return NOTHING
        start = self.taken % self._window
        free = self._window - (self.taken - self.acknowledged)
        return self._ring[start : start + min(CHUNK, free)]  # it ends with the ring

    def took(self, count: int) -> None:
        """So many bytes were read into `room`."""
        self.taken += count

    def end(self) -> None:
        """The QEMU here has closed its end."""
        self.is_ended = True

    # One connection after the other.

    def connect(self) -> bytes:
        """A new connection takes the place of the one before, of which nothing counts any more; what to send first."""
        self._reader = ChannelFrameReader()
        self._may_send = False
        self._told = self.passed_on
        return encode(ChannelFrameKind.AT, self.passed_on)

    def read(self, data: memoryview) -> tuple[Piece | None, memoryview]:
        """The first piece of what has come, and what follows it. Its payload is to be passed on, then `passed`.

        :raise ChannelFrameError: the peer does not keep to the protocol.
        """
        piece, rest = self._reader.read(data)
        if piece is not None:
            self._heed(piece)
        return piece, rest

    def _heed(self, piece: Piece) -> None:
        kind = piece.kind
        if (kind is ChannelFrameKind.AT) is self._may_send:
            raise ChannelFrameError(f"a channel's {kind.name} frame does not belong there")
        if kind is ChannelFrameKind.AT:
            self._resume(piece.value)
        elif kind is ChannelFrameKind.ACK:
            self._acknowledge(piece.value, self._sent)
        elif kind is ChannelFrameKind.GIVEN_UP:
            self.is_given_up_there = True
        elif self.is_ended_there:
            raise ChannelFrameError("a channel goes on after its end")
        elif kind is ChannelFrameKind.END:
            self.passed_on += 1
            self.is_ended_there = True

    def _resume(self, position: int) -> None:
        self._acknowledge(position, self._furthest)
        self._sent = position
        self._may_send = True

    def _acknowledge(self, position: int, most: int) -> None:
        if not self.acknowledged <= position <= most:
            raise ChannelFrameError(
                f"position {position} of a channel was acknowledged, between {self.acknowledged} and {most} may be"
            )
        self.acknowledged = position

    def passed(self, count: int) -> None:
        """So many bytes of a payload are with the QEMU here."""
        self.passed_on += count

    # What goes out.

    def output(self) -> list[bytes | memoryview]:
        """What is to be given to the connection next, all of it; empty if nothing is. Never before the peer's AT."""
        if not self._may_send:
            return []
        due: list[bytes | memoryview] = []
        if self.passed_on - self._told >= self._ack_every or (self.is_ended_there and self._told < self.passed_on):
            due.append(self.sign_of_life())
        if self._sent < self.taken:
            start = self._sent % self._window
            data = self._ring[start : start + min(CHUNK, self.taken - self._sent)]
            self._give(len(data))
            due += [encode(ChannelFrameKind.DATA, len(data)), data]
        elif self.is_ended and self._sent == self.taken:
            self._give(1)
            due.append(encode(ChannelFrameKind.END))
        return due

    def sign_of_life(self) -> bytes:
        """An acknowledgement, whether there is something new or not. Not before the peer's AT (see `may_send`)."""
        self._told = self.passed_on
        return encode(ChannelFrameKind.ACK, self.passed_on)

    def _give(self, count: int) -> None:
        self._sent += count
        self._furthest = max(self._furthest, self._sent)

    @property
    def may_send(self) -> bool:
        """Whether the peer has said where to go on from."""
        return self._may_send

    @property
    def is_delivered(self) -> bool:
        """Whether QEMU's end, and so all of it, was passed on there."""
        return self.is_ended and self.acknowledged == self.taken + 1
