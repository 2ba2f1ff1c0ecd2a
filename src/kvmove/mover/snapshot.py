"""What a move of disks tells of itself at a moment: each disk, each NIC. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from kvmove.disk.offload import Rung
from kvmove.mover.forward_mode import ForwardMode


@dataclass(slots=True)
class DiskSnapshot:
    """One disk now. Bytes, but for `forwarded` and `ignored` (mirrored pieces). `sent` is data, frames not counted.

    `by_rung` says by which way how much of the bulk went, in a move within a host; empty in others. `held`: how long
    mirrored writes were held, seconds: half of them less, 99 % less, the longest. `writes` of them were answered so
    far, after `held_seconds` in all. `regions` is a picture (see `region_picture`).
    """

    total: int
    copied: int
    recopied: int
    mode: ForwardMode
    reason: str
    buffered: int
    mirrored: int
    sent: int
    forwarded: int
    ignored: int
    mode_changes: tuple[str, ...]
    by_rung: dict[Rung, int]
    held: tuple[float, float, float]
    writes: int = 0
    held_seconds: float = 0.0
    regions: str = ""


@dataclass(slots=True)
class NicTotals:
    """Bytes that a NIC has sent for this move, and streams that live on it. While it is left, `reason` says why; how
    often and for how long (seconds) it has been."""

    sent: int = 0
    streams: int = 0
    reason: str = ""
    times_left: int = 0
    seconds_left: float = 0.0
