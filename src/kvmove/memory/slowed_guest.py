"""For how long a guest has been slowed for nothing: its vCPUs held back, and none of its memory got through. Pure;
seconds come in.

QEMU holds vCPUs back more only at the end of a round, and lets them go only when its migration ends. So a guest that is
slowed when the last route goes dead stays slowed, as much as it was, for as long as the channels wait for a route.
"""

from __future__ import annotations

MOST_SECONDS = 60.0
"""As long as one may wait for disks that are copied again; what was copied of the disks is lost with the move."""


class SlowedInVain:
    """Of one guest, while its memory is sent."""

    def __init__(self) -> None:
        self._transferred = -1
        self._since = 0.0

    def look(self, now: float, transferred: int, throttle: int) -> float:
        """Seconds for which nothing has been added to `transferred` (bytes), the vCPUs being held back (`throttle`, in
        percent of the time) all the while."""
        if transferred != self._transferred or not throttle:
            self._transferred, self._since = transferred, now
        return now - self._since
