"""A switch whose wires are long: what arrives at a port leaves by the right one after a fixed time. Pure.

Frames leave in the order in which they came. It learns who is behind which port from their source addresses; a frame
to nobody known goes to every other port. It holds at most MOST_BYTES: beyond them frames are lost, as in any switch.

Time in seconds comes in; a frame is any bytes whose Ethernet header begins at `HEADER`. Deliberately not here: sockets.
"""

from collections import deque
from typing import NamedTuple

HEADER = 10
"""Bytes before the Ethernet header: struct virtio_net_hdr, which tells how the kernel may cut a large segment."""

MOST_BYTES = 256 * 1024 * 1024
"""1 Gbit/s for two seconds; a whole lab's traffic at 150 ms is less."""

_MAC = 6
_GROUP_BIT = 1  # of a MAC address's first byte: multicast and broadcast


class _Held(NamedTuple):
    due: float
    port: str
    frame: bytes


class DelaySwitch:
    """The switch between `ports`; each frame is held for `delay` seconds."""

    def __init__(self, ports: list[str], delay: float) -> None:
        self.ports = ports
        self.lost = 0
        self._delay = delay
        self._held: deque[_Held] = deque()
        self._bytes = 0
        self._behind: dict[bytes, str] = {}

    def arrived(self, port: str, frame: bytes, now: float) -> None:
        """A frame came in at `port`."""
        if self._bytes + len(frame) > MOST_BYTES:
            self.lost += 1
            return
        self._behind[frame[HEADER + _MAC : HEADER + 2 * _MAC]] = port
        self._bytes += len(frame)
        self._held.append(_Held(now + self._delay, port, frame))

    def next_due(self) -> float | None:
        """When the next frame is to leave; None when none is held."""
        return self._held[0].due if self._held else None

    def leaving(self, now: float) -> list[tuple[str, bytes]]:
        """What is to leave by now, with its port, in order; it is held no more."""
        leaving: list[tuple[str, bytes]] = []
        while self._held and self._held[0].due <= now:
            _, came_by, frame = self._held.popleft()
            self._bytes -= len(frame)
            leaving += [(port, frame) for port in self._ways(came_by, frame)]
        return leaving

    def _ways(self, came_by: str, frame: bytes) -> list[str]:
        to = frame[HEADER : HEADER + _MAC]
        known = None if not to or to[0] & _GROUP_BIT else self._behind.get(to)
        if known is not None:
            return [known] if known != came_by else []
        return [port for port in self.ports if port != came_by]
