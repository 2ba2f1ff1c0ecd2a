"""Tries for a moment how much a pair of migration NICs carries, over a stream like those of a move.

    source                          destination
    PROBE_MOST bytes at most   ->   reads them, and says every now and then
                               <-   how many have come (8 bytes, big-endian)

The source counts what has come there, not what its own kernel took, and only after WARM_SECONDS: TCP finds its pace by
then, and a shaped port has given away what it had saved up. It ends after TRY_SECONDS by closing.
"""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Callable

from kvmove.transport.stream import Stream, StreamLost
from kvmove.units import KIB, MIB

TRY_SECONDS = 0.45
WARM_SECONDS = 0.12
PROBE_MOST = 128 * MIB
_PIECE = 256 * KIB
_AHEAD = 2 * _PIECE
_COUNT = struct.Struct("!Q")
_TELL_SECONDS = 0.01
_WAIT_SECONDS = 0.02
_LONGEST_SECONDS = 5.0


class _Pace:
    """How much came since it was warm."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._first: tuple[float, int] | None = None
        self._last = (began, 0)

    def heard(self, now: float, count: int) -> None:
        """So much has come by `now`."""
        if self._first is None and now - self._began >= WARM_SECONDS:
            self._first = (now, count)
        self._last = (now, count)

    def rate(self) -> int:
        """Bytes/s; 0 when too little came. One that was done before it was warm counts from its beginning."""
        since, before = self._first or (self._began, 0)
        now, count = self._last
        if now - since < _TELL_SECONDS:
            since, before = self._began, 0
        return round((count - before) / (now - since)) if now > since else 0


def try_wire(stream: Stream) -> int:
    """Send for TRY_SECONDS and return the bytes/s that came there; closes the stream.

    :raise StreamLost: it broke; nothing is known then.
    """
    began = time.monotonic()
    pace, told, piece, queued = _Pace(began), bytearray(), memoryview(secrets.token_bytes(_PIECE)), 0
    room = memoryview(bytearray(_COUNT.size * 64))
    try:
        while (now := time.monotonic()) - began < TRY_SECONDS:
            stream.flush()
            while stream.unsent < _AHEAD and queued < PROBE_MOST:
                stream.queue(piece)
                queued += _PIECE
                stream.flush()  # so the loop ends only once the socket is full, and the wait below is for room
            told += room[: stream.receive_into(room)]
            whole = len(told) // _COUNT.size * _COUNT.size
            if whole:
                (count,) = _COUNT.unpack_from(told, whole - _COUNT.size)
                del told[:whole]
                pace.heard(now, count)
                if count >= PROBE_MOST:
                    break
            stream.wait(_WAIT_SECONDS)
        return pace.rate()
    finally:
        stream.close()


def answer_try(stream: Stream) -> Callable[[], None]:
    """What the destination runs in the stream's thread."""

    def run() -> None:
        room = memoryview(bytearray(_PIECE))
        began = told = time.monotonic()
        count = 0
        try:
            while count < 2 * PROBE_MOST and (now := time.monotonic()) - began < _LONGEST_SECONDS:
                got = stream.receive_into(room)
                count += got
                if got and now - told >= _TELL_SECONDS:
                    told = now
                    stream.queue(_COUNT.pack(count))
                    stream.flush()
                if not got:
                    stream.wait(_WAIT_SECONDS)
        except StreamLost:
            pass  # the source has seen enough
        finally:
            stream.close()

    return run
