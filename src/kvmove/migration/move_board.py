"""How one move is: written by the procedure, read by whoever asks (agent, manager, command line).

One writer, the procedure's task. Readers get a frozen `MoveStatus` each time. The board also collects the report: time
per phase, bytes per NIC, the parts of the switchover, digests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from kvmove.errors import KvmoveError
from kvmove.memory.relay_process import RelayProcess
from kvmove.migration import phases
from kvmove.migration.outage import Outage
from kvmove.migration.phases import Course, HandOver
from kvmove.migration.progress import ProgressMeter
from kvmove.migration.time_spent import TimeSpent
from kvmove.model.move import (
    Change,
    DiskProgress,
    DiskReport,
    MemoryProgress,
    MovePlan,
    MoveProgress,
    MoveReport,
    MoveStatus,
    NicProgress,
    NicState,
    Phase,
    PhaseTime,
)
from kvmove.model.time_spent import Bottleneck
from kvmove.mover.disk_move import DiskMove
from kvmove.mover.snapshot import DiskSnapshot, NicTotals
from kvmove.qemu.migration import MigrationInfo
from kvmove.units import format_rate

log = logging.getLogger(__name__)

log = logging.getLogger(__name__)

FIRST = Course()

REGISTRY_RETRY_SECONDS = 0.2

MOST_CHANGES = 500
"""A report stays readable; what is beyond is in the log."""


class MoveBoard:
    """The board of one move."""

    def __init__(self, plan: MovePlan, course: Course = FIRST) -> None:
        self.plan = plan
        self.course = course
        self.message = ""
        self.standing = ""
        """Why the move stands, by an operator's word or for want of one."""
        self.remark = ""
        """What the memory's convergence has to tell."""
        self.outage = Outage(plan.destination.name)
        self.paused_by = ""
        self.waits_for_word = False
        self.bandwidth = plan.bandwidth
        self.max_downtime_ms = plan.max_downtime_ms
        self._changes: list[Change] = []
        self._slowed = (0, 0.0)
        self._began = time.monotonic()
        self._entered = self._began
        self._phases: list[PhaseTime] = []
        self._meter = ProgressMeter(plan)
        self._disks: DiskMove | None = None
        self._relay: RelayProcess | None = None
        self._snapshots: list[DiskSnapshot] = []
        self._disk_nics: dict[str, NicTotals] = {}
        self._nics: dict[str, NicProgress] = {}
        self._told_of_nics = 0
        self._memory = MemoryProgress()
        self._switchover: dict[str, float] = {}
        self._digests: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {})
        self._time = TimeSpent(plan)
        self._report: MoveReport | None = None
        self._problem: KvmoveError | None = None
        self._ended: MoveStatus | None = None
        self._over = asyncio.Event()

    # The procedure writes.

    def enter(self, phase: Phase) -> None:
        """The next phase begins."""
        self._note_time()
        self._collect()
        self.course = phases.enter(self.course, phase)
        log.info("move %s: %s", self.plan.move_id, phase)

    def _note_time(self) -> None:
        now = time.monotonic()
        self._phases.append(PhaseTime(phase=self.course.phase, seconds=round(now - self._entered, 3)))
        self._entered = now

    def watch_disks(self, disks: DiskMove) -> None:
        self._disks = disks
        self._told_of_nics = 0

    def watch_memory(self, relay: RelayProcess) -> None:
        self._relay = relay

    def memory(self, info: MigrationInfo) -> None:
        """What QEMU says of its rounds."""
        self._memory = MemoryProgress(
            total=info.ram_total,
            transferred=info.ram_transferred,
            remaining=info.ram_remaining,
            rounds=info.rounds,
            dirty_rate=info.dirty_rate,
            throttle=info.throttle,
        )

    def heard(self, answer: Mapping[str, Any]) -> None:
        """What the destination tells of itself."""
        if self.course.phase is Phase.COPYING_DISKS:
            self._time.heard(answer)

    def note(self, what: str) -> None:
        """Something is otherwise from now on, and why: for the report."""
        if len(self._changes) < MOST_CHANGES:
            self._changes.append(Change(seconds=round(time.monotonic() - self._began, 3), what=what))
        log.info("move %s: %s", self.plan.move_id, what)

    def yielded(self) -> None:
        """The source gives its word; the disks' threads have nothing more to tell."""
        self.stop_watching()
        self.course = phases.hand_over(self.course, HandOver.YIELDED)

    def in_doubt(self, reason: str) -> None:
        """The answer to the hand-over did not come."""
        self.message = reason
        if phases.may_enter(self.course, Phase.IN_DOUBT):
            self.enter(Phase.IN_DOUBT)

    def decided(self, *, by_destination: bool, parts: dict[str, float]) -> None:
        """It is known who owns the VM."""
        self.course = phases.hand_over(self.course, HandOver.COMMITTED if by_destination else HandOver.RETURNED)
        self._switchover = parts

    def digests(self, source: Mapping[str, str], destination: Mapping[str, str]) -> None:
        self._digests = (source, destination)

    async def waiting_for_registry(self) -> None:
        """The registry does not answer; between two attempts to note there that the VM stays."""
        self.message = "the VM runs on at the source; waiting for the registry, to note it there"
        await asyncio.sleep(REGISTRY_RETRY_SECONDS)

    def failing(self, error: KvmoveError, *, instead: bool = False) -> None:
        """The move is being undone. The first reason stays, unless a later one is put `instead`."""
        if self._problem is not None:
            error.step = error.step or self._problem.step
        if self._problem is None or instead:
            self._problem = error
            log.info("move %s cannot go on: %s", self.plan.move_id, error.detail)
        if phases.may_enter(self.course, Phase.ABORTING):
            error.step = error.step or self.course.phase
            self.enter(Phase.ABORTING)

    def ended(self, outcome: Phase, info: MigrationInfo | None = None) -> None:
        """Nothing follows. With `info` (QEMU's last word) there is a report."""
        if info is not None:
            self.memory(info)
        self.enter(outcome)
        self._collect()
        if info is not None:
            self._report = self._make_report(info)
        self._ended = self._status()
        self._over.set()

    async def wait_over(self, seconds: float) -> None:
        """Return once the move has ended, or so much later."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    def stop_watching(self) -> None:
        """The disks' threads end: keep their last figures. The memory relay's are read until the end."""
        self._collect()
        self._disks = None

    # Anyone reads.

    def status(self) -> MoveStatus:
        """The move now, or how it ended."""
        return self._ended or self._status()

    def _status(self) -> MoveStatus:
        self._collect()
        place = phases.whereabouts(self.course, self.plan.source.name, self.plan.destination.name, self.plan.power)
        problem = None
        if self._problem is not None:
            place = self._problem.vm_state or place
            problem = self._problem.problem() | {"vm_state": place}
        return MoveStatus(
            move_id=self.plan.move_id,
            plan=self.plan,
            progress=self._progress(),
            outcome=self.course.phase if self.course.phase in phases.ENDED else None,
            report=self._report,
            problem=problem,
            vm_state=place,
        )

    def _collect(self) -> None:
        """Take the threads' figures."""
        if self._disks is not None:
            self._snapshots, self._disk_nics = self._disks.snapshot()
            self._slow_down(*self._disks.slowed)
            self._tell_of_nics(self._disks.nics.news())
            if self.course.phase is Phase.COPYING_DISKS and (changed := self._time.collect(self._disks)):
                self.note(changed)
            if (ended := self.outage.look(self._disks.alone)) is not None:
                self.note(ended)
        memory = self._relay.sent() if self._relay is not None else {}
        for nic in {*self._disk_nics, *memory}:
            totals = self._disk_nics.get(nic, NicTotals())
            self._nics[nic] = _nic(nic, totals, memory.get(nic, 0))

    def _slow_down(self, rate: int, seconds: float) -> None:
        """How the copy holds itself back for the guest's sake; only that it begins or ends to is worth a note."""
        if bool(rate) is not bool(self._slowed[0]):
            why = f"the guest's writes were held longer than {self.plan.max_write_latency_ms} ms"
            self.note(f"the copy slows itself to {format_rate(rate)}: {why}" if rate else "the copy runs freely again")
        self._slowed = (rate, seconds)

    def _tell_of_nics(self, news: list[str]) -> None:
        """`news` only ever grows, as long as the disks' threads are the same."""
        for what in news[self._told_of_nics :]:
            self.note(what)
        self._told_of_nics = len(news)

    def _progress(self) -> MoveProgress:
        disks = tuple(
            DiskProgress(
                name=disk.name, total=state.total, copied=state.copied, recopied=state.recopied, mode=state.mode,
                reason=state.reason, buffered=state.buffered, mirrored=state.mirrored, writes=state.writes,
                held_seconds=round(state.held_seconds, 6), regions=state.regions,
            )
            for disk, state in zip(self.plan.disks, self._snapshots, strict=False)
        )  # fmt: skip
        message = "; ".join(said for said in (self.standing, self.outage.remark, self.message, self.remark) if said)
        progress = self._meter.update(
            time.monotonic() - self._began, self.course.phase, disks, self._memory, tuple(self._nics.values()),
            message,
        )  # fmt: skip
        return progress.model_copy(
            update={
                "eta_seconds": None if self.standing else progress.eta_seconds,
                "paused_by": self.paused_by,
                "waits_for_word": self.waits_for_word,
                "bandwidth": self.bandwidth,
                "max_downtime_ms": self.max_downtime_ms,
                "slowed_to": self._slowed[0],
                "bottleneck": self._bottleneck(),
                "compressed": self._time.compressed,
            }
        )

    def _make_report(self, info: MigrationInfo) -> MoveReport:
        return MoveReport(
            seconds=round(time.monotonic() - self._began, 3),
            phases=tuple(self._phases),
            downtime_ms=info.downtime_ms,
            switchover_ms=self._switchover,
            bytes_per_nic={nic: state.sent for nic, state in self._nics.items()},
            memory_bytes=info.ram_transferred,
            memory_rounds=info.rounds,
            disks=tuple(self._disk_reports()),
            encrypted=self.plan.encrypt,
            changes=tuple(self._changes),
            slowed_seconds=round(self._slowed[1], 1),
            nics=self._meter.over_all(tuple(self._nics.values())),
            where_time_went=self._time.spent(*self._memory_time()),
            bottleneck=self._bottleneck(),
            compressed=self._time.compressed,
        )

    def _bottleneck(self) -> Bottleneck | None:
        if self.course.phase is Phase.COPYING_MEMORY:
            return self._time.memory_bottleneck(self._memory_time(), self.bandwidth)
        return self._time.bottleneck(self._memory_time(), self._slowed[1], self.bandwidth)

    def _memory_time(self) -> tuple[float, int]:
        """Seconds that memory took until now, and its bytes."""
        phase = Phase.COPYING_MEMORY
        seconds = sum(it.seconds for it in self._phases if it.phase is phase)
        if self.course.phase is phase:
            seconds += time.monotonic() - self._entered
        return seconds, self._memory.transferred

    def _disk_reports(self) -> list[DiskReport]:
        source, destination = self._digests
        return [
            DiskReport(
                name=disk.name, size=disk.size, data_sent=state.sent, writes_forwarded=state.forwarded,
                writes_ignored=state.ignored, recopied=state.recopied, mode_changes=state.mode_changes,
                moved_by={str(rung): size for rung, size in state.by_rung.items() if size},
                source_digest=source.get(disk.name, ""), destination_digest=destination.get(disk.name, ""),
                hold_p50_ms=_milliseconds(state.held[0]), hold_p99_ms=_milliseconds(state.held[1]),
                hold_worst_ms=_milliseconds(state.held[2]),
            )
            for disk, state in zip(self.plan.disks, self._snapshots, strict=True)
        ]  # fmt: skip


def _nic(name: str, totals: NicTotals, memory: int) -> NicProgress:
    state = NicState.LEFT if totals.reason else NicState.UP
    return NicProgress(
        nic=name, sent=totals.sent + memory, streams=totals.streams, state=state,
        reason=totals.reason, times_left=totals.times_left, seconds_left=totals.seconds_left,
    )  # fmt: skip


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
