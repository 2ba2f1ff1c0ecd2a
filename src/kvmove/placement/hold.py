"""How long something has been so without a break. Pure; seconds come in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hold:
    """`since` is when it began to be so; None: it is not so now."""

    since: float | None = None

    def seen(self, so: bool, now: float) -> Hold:
        """The same after a look at `now`."""
        if not so:
            return Hold()
        return self if self.since is not None else Hold(now)

    def lasting(self, now: float) -> float | None:
        """For how many seconds it has been so; None: it is not."""
        return None if self.since is None else now - self.since
