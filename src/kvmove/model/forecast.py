"""A forecast of a move, and the samples of hosts, wire and guest that it is made of.

A sample holds what was seen and nothing else: what could not be measured is None, and `unknown` says why in words.
What follows from the samples is worked out in `migration.forecast`.
"""

from typing import Annotated

from pydantic import Field

from kvmove.model.names import Name
from kvmove.model.strict import Strict

Seconds = Annotated[float, Field(ge=0)]


class Forecast(Strict):
    """What a move is expected to be, told before it starts.

    The time is `seconds`, most likely between `seconds_low` and `seconds_high`. `bytes` is what has to be sent, or read
    and written within a host. `converges` None is not known; `why` says in words what it rests on. `past_error` is the
    median of how far earlier forecasts of this manager were off, as a share of the real time; None: there are none.

    `parts` has the seconds of each phase by its name, and the downtime as `downtime`, before what past moves correct:
    what the next correction is learned from.
    """

    seconds_low: Seconds
    seconds: Seconds
    seconds_high: Seconds
    bytes: int
    downtime_ms: float
    converges: bool | None
    why: str
    past_error: float | None = None
    parts: dict[str, Seconds] = {}


class GuestSample(Strict):
    """A guest as it was for about a second. Bytes and bytes/s: `memory_used` of its memory has ever been touched,
    `dirty_rate` is memory that changed, `write_rate` what it wrote to its disks in `writes` requests per second.
    `pressure` is of its host: the share of time in which something waited for a processor, over ten seconds or over
    a moment, whichever is less.
    """

    memory_used: int | None = None
    dirty_rate: int | None = None
    write_rate: int | None = None
    writes: float | None = None
    pressure: float | None = None
    unknown: tuple[str, ...] = ()


class WireSample(Strict):
    """What the migration NICs carried when all were tried at once: bytes/s by the source's NIC."""

    rates: dict[str, int] = {}
    unknown: tuple[str, ...] = ()


class DiskSample(Strict):
    """How fast a disk's new place takes data, bytes/s; `shares_blocks`: it needs none, both places share blocks."""

    rate: int | None = None
    shares_blocks: bool = False


class StorageSample(Strict):
    """The new places of a move's disks, by the disk's name."""

    disks: dict[Name, DiskSample] = {}
    unknown: tuple[str, ...] = ()
