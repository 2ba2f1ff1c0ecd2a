"""How long a guest stands still: many moves of one guest, by kind; and what the move of a fresh disk costs, by its way.

How long is measured from the guest (its clock stood still, see `guest/timeline`); what agent or QEMU say stands beside
it. Disks are judged against the ledger at the end: a figure of a move that lost something is worth nothing.

Two labs, one after the other: the second's datastores are ext4, which shares no blocks.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kvmove.disk.offload import Rung
from kvmove.lab import ledger_vm, observation
from kvmove.lab.demo import judge_disk
from kvmove.lab.disk_image import find
from kvmove.lab.guest.image import build
from kvmove.lab.guest.verifier import Verdict
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.matrix_run import Bench
from kvmove.lab.moving import Audience, WatchedMove, watched_move
from kvmove.lab.observation import GuestFigures
from kvmove.lab.process_io import beyond_idle, process_io, used
from kvmove.lab.results import CopyRun, DowntimeResult, DowntimeRun, DowntimeSummary
from kvmove.lab.spec import LOCAL, SECOND, SHARED, DatastoreSpec, LabSpec
from kvmove.model.move import MoveKind, MoveRequest
from kvmove.units import GIB, MIB, format_duration, format_size

DOWNTIME_LAB = LabSpec(datastore=DatastoreSpec(size=16 * GIB), shared=True)
DOWNTIME_VM = LedgerVm(name="still", memory=512 * MIB, disk=GIB, data=256 * MIB)
FRESH_VM = LedgerVm(name="fresh", number=2, memory=160 * MIB, disk=4 * GIB, data=2 * GIB, ram_mib=16, rate=200)

SETTLE = 0.5
IDLE_SECONDS = 3.0

NO_DATA = 64
"""Less than this part of the data is none of it: what an agent reads of /proc and writes to its journal."""


class Way(NamedTuple):
    """Where the fresh disk goes, what is between there and here, and the rung that must do it."""

    name: str
    datastore: str
    rung: Rung


XFS_WAYS = (Way("within one XFS", SECOND, Rung.REFLINK),)
EXT4_WAYS = (
    Way("within one ext4", SECOND, Rung.KERNEL_COPY),
    Way("from ext4 to another file system", SHARED, Rung.READ_WRITE),
)


@dataclass(frozen=True)
class DowntimeOutcome:
    """The figures, and in sentences what was wrong."""

    result: DowntimeResult
    findings: tuple[str, ...]


async def run_downtime(
    spec: LabSpec, vm: LedgerVm, fresh: LedgerVm, guest_folder: Path, runs: int, audience: Audience
) -> DowntimeOutcome:
    """Move `vm` `runs` times in each way that it can go, and `fresh` once by each rung; leave nothing behind.

    :raise KvmoveError: a lab could not be built, or a move did not succeed.
    """
    image = await asyncio.to_thread(build, guest_folder)
    async with Lab.passing("downtime", spec) as lab:
        stops = Stops(Bench(lab, image, audience), vm)
        await stops.run(runs)
        on_xfs = Copies(Bench(lab, image, audience), fresh)
        await on_xfs.run(XFS_WAYS)
    datastore = spec.datastore.model_copy(update={"file_system": "ext4"})
    async with Lab.passing(
        "downtime", spec.model_copy(update={"hosts": spec.hosts[:1], "datastore": datastore})
    ) as lab:
        on_ext4 = Copies(Bench(lab, image, audience), fresh)
        await on_ext4.run(EXT4_WAYS)
    verdicts = [*stops.verdicts, *on_xfs.verdicts, *on_ext4.verdicts]
    found = [f"the disk: {verdict}" for verdict in verdicts if not verdict.ok or not verdict.checked]
    copies = (*on_xfs.copies, *on_ext4.copies)
    result = DowntimeResult(
        runs=tuple(stops.runs), summary=summary(stops.runs), copies=copies, lost=sum(it.lost for it in verdicts)
    )
    return DowntimeOutcome(result, (*found, *copy_findings(copies, (*XFS_WAYS, *EXT4_WAYS))))


class Stops:
    """One guest moved again and again in one lab."""

    def __init__(self, bench: Bench, vm: LedgerVm) -> None:
        self.bench = bench
        self.lab = bench.lab
        self.vm = vm
        self.runs: list[DowntimeRun] = []
        self.verdicts: list[Verdict] = []

    async def run(self, runs: int) -> None:
        """All kinds of move, `runs` each; the guest is gone afterwards.

        :raise KvmoveError: a move did not succeed.
        """
        await _start(self.bench, self.vm)
        await self._moves(MoveKind.UNIFIED, runs)
        await self._moves(MoveKind.STORAGE, runs)
        self.bench.audience.say(f"{self.vm.name}'s disk goes to the datastore that both hosts share")
        await watched_move(
            self.lab, self.vm, MoveRequest(vm=self.vm.name, datastore=SHARED), self.bench.audience, SETTLE, sample=False
        )
        await self._moves(MoveKind.HOST, runs)
        self.verdicts.append(await _judge_and_delete(self.bench, self.vm))

    async def _moves(self, kind: MoveKind, runs: int) -> None:
        for number in range(1, runs + 1):
            moved, seen = await _move(self.bench, self.vm, await self._request(kind))
            run = DowntimeRun(
                kind=kind, seconds=moved.seconds, guest_ms=seen.guest_downtime_ms, agent_ms=_agent_ms(moved)
            )
            self.runs.append(run)
            self.bench.audience.say(
                f"{kind} move {number} of {runs}: {format_duration(run.seconds)}, stood still {run.guest_ms:.0f} ms"
            )

    async def _request(self, kind: MoveKind) -> MoveRequest:
        """From where the VM is to the other host, or datastore."""
        status = await self.lab.manager.vm(str(self.vm.uuid))
        if kind is MoveKind.STORAGE:
            [disk] = status.definition.disks
            return MoveRequest(vm=self.vm.name, datastore=SECOND if disk.datastore == LOCAL else LOCAL)
        return MoveRequest(vm=self.vm.name, host=next(it for it in self.lab.spec.hosts if it != status.host))


class Copies:
    """Storage moves of a disk that was just filled, on the lab's first host, with an eye on what its agent reads."""

    def __init__(self, bench: Bench, vm: LedgerVm) -> None:
        self.bench = bench
        self.lab = bench.lab
        self.vm = vm
        self.copies: list[CopyRun] = []
        self.verdicts: list[Verdict] = []

    async def run(self, ways: Sequence[Way]) -> None:
        """The disk goes each way, one after the other; its guest is gone afterwards.

        :raise KvmoveError: a move did not succeed.
        """
        await _start(self.bench, self.vm)
        for way in ways:
            self.copies.append(await self._copy(way))
        self.verdicts.append(await _judge_and_delete(self.bench, self.vm))

    async def _copy(self, way: Way) -> CopyRun:
        agent = self.lab.hosts[0].agent_pid() or 0
        marks = [(process_io(agent), time.monotonic())]
        await asyncio.sleep(IDLE_SECONDS)
        marks.append((process_io(agent), time.monotonic()))
        moved, seen = await _move(self.bench, self.vm, MoveRequest(vm=self.vm.name, datastore=way.datastore))
        marks.append((process_io(agent), time.monotonic()))
        (first, began), (second, asked), (third, ended) = marks
        io = beyond_idle(used(second, third), ended - asked, used(first, second), asked - began)
        disks = moved.task.report.disks if moved.task.report else ()
        done = moved.task.progress.disks if moved.task.progress else ()
        run = CopyRun(
            way=way.name, size=self.vm.disk, data=self.vm.data, seconds=moved.seconds, guest_ms=seen.guest_downtime_ms,
            agent_ms=_agent_ms(moved), longest_gap_ms=seen.gap_copying_ms, agent_io=io,
            moved_by={rung: size for disk in disks for rung, size in disk.moved_by.items() if size},
            guest_wrote=sum(disk.mirrored for disk in done),
        )  # fmt: skip
        self.bench.audience.say(
            f"a disk moved {way.name}: {format_duration(run.seconds)}, by {', '.join(run.moved_by)}"
        )
        return run


async def _start(bench: Bench, vm: LedgerVm) -> None:
    host = bench.lab.spec.hosts[0]
    bench.audience.say(f"starting {vm.name} on {host}: {format_size(vm.disk)} disk, {format_size(vm.data)} of it data")
    await ledger_vm.define(bench.lab, vm, bench.image, host)
    await ledger_vm.start(bench.lab, vm)


async def _move(bench: Bench, vm: LedgerVm, request: MoveRequest) -> tuple[WatchedMove, GuestFigures]:
    moved = await watched_move(bench.lab, vm, request, bench.audience, SETTLE, sample=False)
    return moved, observation.guest_figures(await bench.log(), vm.number, moved.at)


async def _judge_and_delete(bench: Bench, vm: LedgerVm) -> Verdict:
    bench.audience.say(f"stopping {vm.name} and judging its disk")
    status = await bench.lab.manager.vm(str(vm.uuid))
    [disk] = status.definition.disks
    image = await find(bench.lab, status.host, vm.uuid, disk)
    verdict = await judge_disk(bench.lab, vm, bench.image, status.host, image.file)
    await bench.lab.manager.delete_vm(str(vm.uuid))
    return verdict


def _agent_ms(moved: WatchedMove) -> float:
    return moved.task.report.downtime_ms if moved.task.report else 0.0


def summary(runs: Sequence[DowntimeRun]) -> tuple[DowntimeSummary, ...]:
    """Median and worst of each kind of move that there is, in the order of `MoveKind`."""
    found = []
    for kind in MoveKind:
        if guest := [run.guest_ms for run in runs if run.kind is kind]:
            agent = [run.agent_ms for run in runs if run.kind is kind]
            found.append(
                DowntimeSummary(
                    kind=kind, runs=len(guest), guest_median_ms=round(statistics.median(guest), 1),
                    guest_worst_ms=max(guest), agent_median_ms=round(statistics.median(agent), 1),
                    agent_worst_ms=max(agent),
                )
            )  # fmt: skip
    return tuple(found)


def copy_findings(copies: Sequence[CopyRun], ways: Sequence[Way]) -> list[str]:
    """What is wrong, in sentences: another rung than expected, or data that went through the agent in a reflink."""
    found = []
    for run, way in zip(copies, ways, strict=True):
        if set(run.moved_by) != {str(way.rung)}:
            found.append(f"the disk moved {run.way} by {', '.join(run.moved_by) or 'nothing'}, not by {way.rung}")
        if way.rung is Rung.REFLINK:
            io, most = run.agent_io, run.data // NO_DATA
            if max(io.rchar, io.read_bytes) > most or max(io.wchar, io.write_bytes) - run.guest_wrote > most:
                found.append(f"the agent read or wrote data of the disk moved {run.way}: {io}")
    return found
