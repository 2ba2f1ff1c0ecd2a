"""What a person has been shown of a move, so that no bar ever runs backwards. Pure.

Invariant: `percent`, each disk's share, the memory's share and the phase's place in the line never fall from one
`follow` to the next. What really went back (a re-copy, a memory round with more to send) is told in words instead.
"""

from dataclasses import dataclass, field, replace

from kvmove.model.move import DiskProgress, MemoryProgress, MoveProgress, Phase
from kvmove.units import format_rate, format_size

LINE = (
    Phase.PREPARING,
    Phase.COPYING_DISKS,
    Phase.COPYING_MEMORY,
    Phase.SWITCHING_OVER,
    Phase.CLEANING_UP,
)
"""The phases of a move that goes well, in order; the others are ends and are told as such."""


@dataclass(frozen=True)
class Shown:
    """Shares are 0 to 1. `place` is the index in `LINE` of the phase reached."""

    percent: float = 0.0
    place: int = 0
    disks: dict[str, float] = field(default_factory=dict)
    memory: float = 0.0


def follow(before: Shown, progress: MoveProgress) -> Shown:
    """What to show next, after `before`."""
    disks = {disk.name: max(before.disks.get(disk.name, 0.0), _disk_share(disk)) for disk in progress.disks}
    return replace(
        before,
        percent=max(before.percent, min(progress.percent, 100.0)),
        place=max(before.place, _place(progress.phase, before.place)),
        disks=before.disks | disks,
        memory=max(before.memory, _memory_share(progress.memory)),
    )


def disk_words(disk: DiskProgress) -> str:
    """What the bar of a disk cannot say: the mode when it is not the normal one and why, and what was copied again."""
    words = []
    if disk.mode != "async":
        words.append(f"{disk.mode}: {disk.reason}" if disk.reason else disk.mode)
    if disk.recopied:
        words.append(f"{format_size(disk.recopied)} copied again")
    return ", ".join(words)


def memory_words(memory: MemoryProgress) -> str:
    """What the bar of the memory cannot say: the round, what is left, how fast the guest writes, how it is slowed."""
    if not memory.transferred:
        return ""
    words = [f"round {memory.rounds}", f"{format_size(memory.remaining)} left"]
    if memory.dirty_rate:
        words.append(f"guest writes {format_rate(memory.dirty_rate)}")
    if memory.throttle:
        words.append(f"guest slowed by {memory.throttle} %")
    return ", ".join(words)


def _disk_share(disk: DiskProgress) -> float:
    return min(disk.copied / disk.total, 1.0) if disk.total else 0.0


def _memory_share(memory: MemoryProgress) -> float:
    if not memory.total or not memory.transferred:
        return 0.0
    return min(max(1.0 - memory.remaining / memory.total, 0.0), 1.0)


def _place(phase: Phase, before: int) -> int:
    if phase is Phase.COMPLETED:
        return len(LINE)
    return LINE.index(phase) if phase in LINE else before
