"""Collects where the time of one move went, from the disks' threads and from the destination's answers.

Figures only grow within a move. They are those of the disks' copy: while memory is sent, the streams carry what the
guest writes alone, and have next to nothing to wait for, so nothing is collected then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from kvmove.migration.bottleneck import Terms, find_bottleneck, memory_bottleneck
from kvmove.model.move import MovePlan
from kvmove.model.time_spent import Bottleneck, Compressed, DestinationTime, DiskTime, StreamTime, WhereTimeWent
from kvmove.mover.compression import Compression
from kvmove.mover.compression_policy import State
from kvmove.mover.disk_move import DiskMove
from kvmove.mover.time_spent import DiskTimes, MoveFigures, StreamFigures, Wait


class TimeSpent:
    """That of one move. `compressed` is None where there is nothing to say of it."""

    def __init__(self, plan: MovePlan) -> None:
        self.compressed: Compressed | None = None
        self._plan = plan
        self._disks = WhereTimeWent()
        self._destination: DestinationTime | None = None
        self._was_on = False

    def heard(self, answer: Mapping[str, Any]) -> None:
        """What the destination answered while disks were copied; of another version it may tell other things, or
        nothing."""
        if times := answer.get("times"):
            try:
                self._destination = DestinationTime.model_validate(times)
            except ValidationError:
                return

    def collect(self, disks: DiskMove) -> str:
        """Take the threads' figures, while disks are copied. What is worth a note in the report, if anything."""
        self._disks = _of_disks(self._plan, disks.figures())
        if self._plan.over_storage or not self._plan.routes:
            return ""
        self.compressed = _compressed(disks.compression)
        was, self._was_on = self._was_on, self.compressed.on
        if was is self._was_on:
            return ""
        return f"compression {'on' if self._was_on else 'off'}: {self.compressed.why}"

    def spent(self, memory_seconds: float, memory_bytes: int) -> WhereTimeWent:
        """All figures as they are now."""
        memory = {"memory_seconds": round(memory_seconds, 3), "memory_bytes": memory_bytes}
        return self._disks.model_copy(update={"destination": self._destination, **memory})

    def bottleneck(self, memory: tuple[float, int], slowed_seconds: float, cap: int) -> Bottleneck | None:
        """What was waited for most so far; `cap` in bytes/s, 0: none."""
        return find_bottleneck(self.spent(*memory), self._terms(slowed_seconds, cap))

    def memory_bottleneck(self, memory: tuple[float, int], cap: int) -> Bottleneck | None:
        """The same of the memory's copy alone."""
        return memory_bottleneck(self.spent(*memory), self._terms(0.0, cap))

    def _terms(self, slowed_seconds: float, cap: int) -> Terms:
        return Terms({route.nic: route.speed for route in self._plan.routes}, cap, slowed_seconds)


def _of_disks(plan: MovePlan, figures: MoveFigures) -> WhereTimeWent:
    disks = zip(plan.disks, figures.disks, figures.held, strict=False)
    return WhereTimeWent(
        streams=tuple(_stream(it) for it in figures.streams),
        disks=tuple(_disk(disk.name, times, held) for disk, times, held in disks),
        bulk_bytes=figures.bulk_bytes,
        write_bytes=figures.write_bytes,
    )


def _stream(it: StreamFigures) -> StreamTime:
    return StreamTime(
        nic=it.nic,
        sent=it.sent,
        open_seconds=round(it.open_seconds, 3),
        idle=round(it.waited[Wait.IDLE], 3),
        reader_wait=round(it.waited[Wait.READER], 3),
        send_wait=round(it.waited[Wait.SOCKET], 3),
        cap_wait=round(it.waited[Wait.CAP], 3),
        receiver_limited=round(it.tcp.receiver_limited, 3),
        buffer_limited=round(it.tcp.buffer_limited, 3),
        round_trip_ms=round(it.tcp.round_trip * 1000, 3),
    )


def _disk(name: str, it: DiskTimes, held: float) -> DiskTime:
    return DiskTime(
        name=name,
        read_seconds=round(max(it.read_seconds - it.compress_seconds, 0.0), 3),
        read_processor=round(max(it.read_processor - it.compress_seconds, 0.0), 3),
        read_bytes=it.read_bytes,
        compress_seconds=round(it.compress_seconds, 3),
        write_seconds=round(it.write_seconds, 3),
        kernel_seconds=round(it.kernel_seconds, 3),
        guest_held_seconds=round(held, 3),
    )


def _compressed(it: Compression) -> Compressed:
    return Compressed(
        on=it.state is State.ON, before=it.before, after=it.after, seconds=round(it.seconds, 3), why=it.why
    )
