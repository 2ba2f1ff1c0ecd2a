"""What a move of disks is given: its bounds, what it may take and cost, and each disk. Values only, no decisions."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvmove.disk.interface import SourceDisk
from kvmove.mover.compression import Compression
from kvmove.mover.dispatcher import DiskTerms
from kvmove.transport.bandwidth import Bandwidth


@dataclass(frozen=True, slots=True)
class MoverSettings:
    """Bounds of one move. Bytes and seconds. `give_up` is how long a move may be without any stream."""

    forward_buffer: int = 64 * 1024 * 1024
    budget: float = 1.5
    write_deadline: float = 2.0
    give_up: float = 720.0
    streams_per_route: int = 1


@dataclass(frozen=True, slots=True)
class CopyTerms:
    """What a move may take and cost: its account of the network, and how long (seconds) its guest's writes may be held
    before the copy slows itself; None: it does not. Whether bulk data is compressed is `compression`'s to say."""

    bandwidth: Bandwidth = field(default_factory=Bandwidth)
    max_hold: float | None = None
    compression: Compression = field(default_factory=Compression)


@dataclass(frozen=True, slots=True)
class MovingDisk:
    """What is needed of one disk of a move; `places`, `blank` and `kept` as in `dispatcher.DiskTerms`."""

    source: SourceDisk
    places: frozenset[str] = frozenset()
    blank: bool = True
    kept: bytes = b""

    def terms(self) -> DiskTerms:
        """What decisions need of it. The target of an overlay reads as the images below it, not as zeroes."""
        return DiskTerms(self.source.size, self.places, self.blank and not self.source.is_overlay, self.kept)
