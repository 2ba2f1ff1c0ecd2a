"""One case of the matrix in its lab: a VM is prepared, moved through the manager as a user would, looked at, deleted.

What it was is judged elsewhere (matrix_judge); this file gathers what is seen, and raises nothing.

A VM that is off has run a while before, else there would be nothing to judge; its power went, as the ledger guest
has no shutdown.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

from kvmove.errors import Busy, CheckFailed, InvalidInput, KvmoveError, NotAllowed, NotFound
from kvmove.lab import ledger_vm, preparation
from kvmove.lab.commands import LabFailed
from kvmove.lab.disk_image import DiskImage, find
from kvmove.lab.guest.image import GuestImage
from kvmove.lab.guest.recorder_log import RecorderLog, now_ns
from kvmove.lab.guest.timeline import Window
from kvmove.lab.guest.verifier import Expect, Verdict, verify
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import HEARD_WITHIN, LedgerVm
from kvmove.lab.matrix_cases import Case, Chain
from kvmove.lab.matrix_judge import Seen
from kvmove.lab.moving import Audience, follow
from kvmove.lab.observation import SLACK, milliseconds
from kvmove.model.move import MoveKind
from kvmove.model.task import Task
from kvmove.model.vm import VmState, VmStatus
from kvmove.units import MIB

log = logging.getLogger(__name__)

VM = LedgerVm(memory=160 * MIB, disk=96 * MIB, data=24 * MIB, ram_mib=16, rate=300)

REFUSALS = (CheckFailed, InvalidInput, NotFound, NotAllowed, Busy)
"""What the manager says when it does not begin a move."""

ON_ITS_WAY = SLACK / 1e9
"""Seconds that a report of the guest may take to the recorder's log."""


@dataclass(frozen=True)
class Mark:
    """How far the guest's ledger was: its boots, and the newest one's acknowledged writes by writer."""

    boots: int
    acknowledged: dict[int, int]

    def is_passed_by(self, newer: "Mark", disks: int) -> bool:
        """Whether every writer, one a disk, has had a write acknowledged since; or in a boot since."""
        before = self.acknowledged if newer.boots == self.boots else {}
        return len(newer.acknowledged) == disks and all(
            count > before.get(writer, 0) for writer, count in newer.acknowledged.items()
        )


NOTHING = Mark(0, {})


@dataclass(frozen=True)
class Place:
    """What a refused move must leave as it is: the VM as the manager shows it, and the files of its disks."""

    vm: VmStatus
    disks: tuple[tuple[Path, int], ...]


class Bench:
    """What all cases share: the lab, the guest's image, who looks on, and the recorder's log as read so far."""

    def __init__(self, lab: Lab, image: GuestImage, audience: Audience) -> None:
        self.lab = lab
        self.image = image
        self.audience = audience
        self.recorder = preparation.recorder_folder(lab.folders)
        self._log: RecorderLog | None = None

    async def log(self) -> RecorderLog:
        """The recorder's log, read up to now.

        :raise NotFound: no guest was heard yet.
        """
        if self._log is None:
            self._log = await asyncio.to_thread(RecorderLog, self.recorder)
        await asyncio.to_thread(self._log.refresh)
        return self._log


class CaseRun:
    """One case; `number` is its VM's, which no other of the lab has. `run` it once."""

    def __init__(self, bench: Bench, case: Case, number: int) -> None:
        self.bench = bench
        self.lab = bench.lab
        self.case = case
        self.vm = replace(
            VM, name=f"m{number}", number=number, datastore=case.source_datastore, disks=case.disks,
            format=case.source.image_format, provisioning=case.source_provisioning,
        )  # fmt: skip
        self.source, self.destination = (host.name for host in self.lab.hosts[:2])

    async def run(self) -> Seen:
        """The whole case; what went wrong is in what was seen. Nothing of the VM stays."""
        try:
            return await self._seen()
        except KvmoveError as error:
            return Seen(failure=_text(error))
        except Exception as error:
            log.exception("%s", self.case.name)
            return Seen(failure=f"a defect of ours: {error!r}")
        finally:
            await self._remove()

    async def _seen(self) -> Seen:
        try:
            await self._prepare()
        except REFUSALS as error:
            return Seen(unprepared=_text(error))
        before = await self._place()
        mark = await self._mark()
        asked = now_ns()
        try:
            task = await self.lab.manager.start_move(self.case.request(self.vm.name, self.destination))
        except REFUSALS as error:
            return await self._refused(error, before, mark)
        task = await follow(self.lab, task, self.bench.audience)
        return await self._moved(task, Window(asked, now_ns() + SLACK))

    # Before the move.

    async def _prepare(self) -> None:
        await ledger_vm.define(self.lab, self.vm, self.bench.image, self.source)
        if self.case.chain:
            for disk in await self._disks():
                await asyncio.to_thread(disk.put_on_base)
        await self.lab.manager.start_vm(str(self.vm.uuid))
        await self._heard_since(NOTHING)
        if self.case.state is VmState.PAUSED:
            await self._change("pause")
        elif self.case.state is VmState.OFF:
            await asyncio.sleep(1)
            await self._change("kill")

    async def _place(self) -> Place:
        status = await self._status()
        files = [disk.file.stat().st_ino for disk in await self._disks()]
        paths = [disk.path for disk in await self._disks()]
        still = status.model_copy(update={"pid": None, "epoch": 0})
        return Place(still, tuple(zip(paths, files, strict=True)))

    # After it.

    async def _refused(self, error: KvmoveError, before: Place, mark: Mark) -> Seen:
        wrong = [] if await self._place() == before else ["it was refused, and something is not as it was"]
        wrong += await self._goes_on(mark)
        return Seen(refusal=_text(error), wrong=wrong, verdicts=await self._judge())

    async def _moved(self, task: Task, moving: Window) -> Seen:
        mark = await self._mark()
        wrong = await self._misplaced()
        wrong += await self._goes_on(mark)
        stun = None
        if self.case.state is VmState.RUNNING:
            stun = milliseconds((await self.bench.log()).longest_clock_stop(self.vm.number, moving))
        reports = task.report.disks if task.report else ()
        compared = [report for report in reports if report.source_digest]
        digests = all(it.source_digest == it.destination_digest for it in compared) if compared else None
        return Seen(wrong=wrong, verdicts=await self._judge(), digests=digests, stun_ms=stun)

    async def _misplaced(self) -> list[str]:
        """What of the VM is not where, or not what, was asked for."""
        status = await self._status()
        host = self.source if self.case.kind is MoveKind.STORAGE else self.destination
        wanted = (self.case.destination_datastore, self.case.destination.image_format, self.case.provisioning_after)
        wrong = []
        if (status.host, status.state) != (host, self.case.state):
            wrong.append(f"it is {status.state} on {status.host}, and not {self.case.state} on {host}")
        wrong += [
            f"disk {disk.name} is {disk.provisioning} {disk.format} on {disk.datastore}"
            for disk in status.definition.disks
            if (disk.datastore, disk.format, disk.provisioning) != wanted
        ]
        return wrong + await self._wrong_chains() if self.case.chain else wrong

    async def _wrong_chains(self) -> list[str]:
        return [
            f"the base of {image.path.name} was to be {self.case.chain}"
            for image in await self._disks()
            if await asyncio.to_thread(image.has_base) != (self.case.chain is Chain.KEPT)
        ]

    async def _goes_on(self, mark: Mark) -> list[str]:
        """The guest is let run if it does not, and is heard; what is wrong with it."""
        if self.case.state is VmState.PAUSED:
            if (await self._status()).state is not VmState.PAUSED:
                return ["it is not paused any more"]
            await self._change("resume")
        elif self.case.state is VmState.OFF:
            await self._change("start")
        await self._heard_since(mark)
        health = (await self.bench.log()).health(self.vm.number)
        if health is None or health.corrupt_pages or health.io_errors:
            return [f"the guest's health: {health}"]
        return []

    async def _judge(self) -> list[Verdict]:
        """End the guest as if the power went, and compare every disk with the ledger."""
        await asyncio.sleep(ON_ITS_WAY)
        await self._change("kill")
        disks = await self._disks()
        return [await asyncio.to_thread(self._verdict, number, disk) for number, disk in enumerate(disks)]

    def _verdict(self, number: int, disk: DiskImage) -> Verdict:
        expect = Expect(vm=self.vm.number, disk=number, prefill=self.vm.prefill_of(number))
        with disk.content() as raw:
            return verify(raw, self.bench.recorder, self.bench.image.verify_tool, expect)

    async def _remove(self) -> None:
        for action in ("kill", "delete"):
            with contextlib.suppress(KvmoveError):
                await self._change(action)
        with contextlib.suppress(NotFound):
            (await self.bench.log()).forget(self.vm.number)

    # The VM.

    async def _status(self) -> VmStatus:
        return await self.lab.manager.vm(str(self.vm.uuid))

    async def _change(self, action: str) -> None:
        """`start`, `kill`, `delete`, `pause` or `resume` the VM."""
        await getattr(self.lab.manager, f"{action}_vm")(str(self.vm.uuid))

    async def _disks(self) -> list[DiskImage]:
        """Where the disks lie now."""
        status = await self._status()
        return [await find(self.lab, status.host, self.vm.uuid, disk) for disk in status.definition.disks]

    async def _mark(self) -> Mark:
        """Where the ledger is once all that the guest has said so far is in it."""
        await asyncio.sleep(ON_ITS_WAY)
        return await self._mark_now()

    async def _mark_now(self) -> Mark:
        try:
            log = await self.bench.log()
        except NotFound:  # nobody has said anything yet
            return NOTHING
        return Mark(len(log.boots(self.vm.number)), log.last_acknowledged(self.vm.number))

    async def _heard_since(self, mark: Mark) -> None:
        """Wait until every disk of the guest has had a write acknowledged since.

        :raise LabFailed: that takes longer than a minute and a half.
        """
        deadline = time.monotonic() + HEARD_WITHIN
        while not mark.is_passed_by(await self._mark_now(), self.case.disks):
            if time.monotonic() > deadline:
                raise LabFailed(f"guest {self.vm.name} does not write to each of its disks")
            await asyncio.sleep(0.1)


def _text(error: KvmoveError) -> str:
    return f"{error.detail} ({error.hint})" if error.hint else error.detail
