"""How much one connection must hold under way: what its path carries in one round trip. Pure.

The kernel finds that out itself, but not beyond its limits (`tcp_wmem`, `tcp_rmem`): 4 and 6 MB as Linux comes, 27 MB/s
over 150 ms. So each end looks at what it has carried lately, and at the round trip, and asks for HEADROOM times that.
While a buffer is what limits the rate, the rate rises with it, and so doubles or more with each look, as TCP's own
start does. A buffer never shrinks: it is a bound, and memory is taken by what is in it alone. But at a receiver, what
a slow disk leaves lying is in it, and a mirrored write lies behind that; hence the rate that was carried, not the
NIC's.

Time in seconds and counts of bytes come in. Deliberately not here: sockets (stream).
"""

HEADROOM = 3
"""Enough for the rate to double between two looks and for the round trip to grow by half."""

FIRST = 16 * 1024 * 1024
"""Bytes of a receive buffer before anything is known. It decides how large the window can ever be, which is twice as
much: 1.8 Gbit/s over 150 ms for each stream."""

MOST = 256 * 1024 * 1024
"""Bytes that no buffer is larger than: 10 Gbit/s over 200 ms."""

LEAST_SECONDS = 0.05
"""Between two looks; over a longer way, one round trip."""


class BufferSize:
    """One direction of one connection. `look` wants the count of bytes carried so far, and gives the size to have."""

    def __init__(self) -> None:
        self.next_look = 0.0
        self._at: float | None = None
        self._count = 0
        self._size = 0

    def look(self, now: float, count: int, round_trip: float) -> int:
        """The bytes that the buffer should hold, as far as is known: 0 at first, never less than before."""
        if self._at is not None and now > self._at:
            rate = (count - self._count) / (now - self._at)
            self._size = max(self._size, min(round(HEADROOM * rate * round_trip), MOST))
        self._at, self._count = now, count
        self.next_look = now + max(LEAST_SECONDS, round_trip)
        return self._size
