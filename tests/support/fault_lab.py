"""A lab with one ledger guest that is moved there and back while faults are done to the move, case after case.

A case starts `kvmove move` as an operator would, waits for a moment, does its fault, and hands what came of it to
`fault_judge`. The NICs are slow, so that "in the middle of the bulk copy" is a time and not an instant. Failpoints hold
the agent at its step while the fault is done; then they are taken away, so that the product goes on unheld.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from kvmove.errors import KvmoveError
from kvmove.lab import ledger_vm, preparation, processes
from kvmove.lab.guest.image import GuestImage, build
from kvmove.lab.guest.options import Mode
from kvmove.lab.guest.recorder_log import Health, RecorderLog
from kvmove.lab.lab import Lab
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.model.move import Phase
from kvmove.model.task import Task
from kvmove.units import GIB, MIB
from tests.support.eventually import eventually
from tests.support.vcpu_watch import VcpuWatch

GUEST = Path("build/guest")
SLOW = 50_000_000
"""Bytes/s of each of the two NICs."""

SPEC = LabSpec(nics=(SLOW, SLOW), datastore=DatastoreSpec(size=4 * GIB))
VM = LedgerVm(
    name="victim", memory=160 * MIB, disk=256 * MIB, data=128 * MIB, mode=Mode.RANDOM4K, rate=300, ram_rate=4000
)

object.__setattr__(VM, "options", replace(VM.options, ram_mib=24))  # less to send in each of many moves

HANG_SECONDS = 90.0
BULK = "bulk-copy"
BULK_SHARE = 0.4
PRE_COPY = "source-pre-copy"
PRE_SWITCHOVER = "source-pre-switchover"


@dataclass
class Move:
    """A move under way, or over. `code` is what `kvmove move` ended with, `told` what it wrote to stderr."""

    source: LabHost
    destination: LabHost
    process: asyncio.subprocess.Process
    vcpus: VcpuWatch
    task_id: str = ""
    code: int = -1
    told: str = ""
    armed: list[tuple[LabHost, str]] = field(default_factory=list)
    boots: int = 1


class FaultLab:
    """The lab, its guest, and the moves of it."""

    def __init__(self, lab: Lab, image: GuestImage) -> None:
        self.lab = lab
        self.vm = VM
        self.image = image
        self.recorder = preparation.recorder_folder(lab.folders)
        self.log = RecorderLog(self.recorder)

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls) -> AsyncIterator["FaultLab"]:
        """Build it and start the guest on h1; nothing is left of it afterwards."""
        image = await asyncio.to_thread(build, GUEST)
        async with Lab.passing("flt", SPEC) as lab:
            await ledger_vm.define(lab, VM, image, "h1")
            await ledger_vm.start(lab, VM)
            faults = cls(lab, image)
            yield faults
            await faults.check_memory()
        assert lab.leftovers() == []

    async def check_memory(self) -> None:
        """Wait until the guest has seen every page of its RAM ledger after all that was done to it."""
        wanted = self.health().ram_sweeps + 2
        await eventually(lambda: self.health().ram_sweeps >= wanted)
        assert self.health().corrupt_pages == 0

    def health(self) -> Health:
        """What the guest says of itself now; its counts run through all cases."""
        self.log.refresh()
        health = self.log.health(VM.number)
        assert health is not None
        return health

    def ends(self) -> tuple[LabHost, LabHost]:
        """Where the guest's QEMU is, and the other host."""
        first, second = self.lab.hosts
        return (first, second) if VM.uuid in first.qemu_pids() else (second, first)

    @contextlib.asynccontextmanager
    async def move(self, *options: str, hold: tuple[str, ...] = (), fail: tuple[str, ...] = ()) -> AsyncIterator[Move]:
        """Move the guest to the other host, held or failing at these failpoints; ends with the command."""
        await self.see_that_it_runs()
        source, destination = self.ends()
        known = {task.id for task in await self.lab.manager.tasks()}
        armed = [(source if point.startswith("source") else destination, point) for point in (*hold, *fail)]
        for host, point in armed:
            host.arm(point, "hold" if point in hold else "fail")
        with VcpuWatch(source.qemu_pids()[VM.uuid], lambda: destination.qemu_pids().get(VM.uuid)) as vcpus:
            process = await self._command("move", VM.name, destination.name, *options)
            move = Move(source, destination, process, vcpus, armed=armed, boots=self.boots())
            try:
                move.task_id = await self._new_task(known, process)
                yield move
                await self._end(move)
            finally:
                self.let_go(move)
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def see_that_it_runs(self) -> None:
        """Start the guest where it belongs, if a case has ended it."""
        if not any(VM.uuid in host.qemu_pids() for host in self.lab.hosts):
            boots = self.boots()
            await self.lab.manager.start_vm(str(VM.uuid))
            await eventually(lambda: self.boots() > boots)

    def boots(self) -> int:
        """How often the guest was started."""
        self.log.refresh()
        return len(self.log.boots(VM.number))

    async def _command(self, *words: str) -> asyncio.subprocess.Process:
        server = f"unix:{self.lab.folders.manager_socket}"
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kvmove", "--server", server, "-q", "-o", "json", *words,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def _new_task(self, known: set[str], process: asyncio.subprocess.Process) -> str:
        async with asyncio.timeout(HANG_SECONDS):
            while True:
                for task in await self.lab.manager.tasks():
                    if task.id not in known:
                        return task.id
                if process.returncode is not None:
                    assert process.stderr is not None
                    raise AssertionError(f"kvmove move ended at once: {(await process.stderr.read()).decode()}")
                await asyncio.sleep(0.05)

    async def _end(self, move: Move) -> None:
        assert move.process.stderr is not None
        async with asyncio.timeout(HANG_SECONDS):
            move.told = (await move.process.stderr.read()).decode()
            move.code = await move.process.wait()

    def let_go(self, move: Move) -> None:
        """Take all failpoints of the move away."""
        for host, point in move.armed:
            host.disarm(point)

    # Moments.

    async def until(self, move: Move, moment: str) -> None:
        """Wait until the move is there: BULK, or held at that failpoint."""
        if moment == BULK:
            await self._until_task(move, _in_the_middle_of_the_copy)
            return
        host = move.source if moment.startswith("source") else move.destination
        async with asyncio.timeout(HANG_SECONDS):
            while not host.is_held(moment):
                if move.process.returncode is not None:
                    task = await self.lab.manager.task(move.task_id)
                    raise AssertionError(f"the move ended before {moment}: {task.state} {task.problem}")
                await asyncio.sleep(0.02)

    async def _until_task(self, move: Move, holds: Callable[[Task], bool]) -> None:
        async with asyncio.timeout(HANG_SECONDS):
            async for task in self.lab.manager.watch_task(move.task_id):
                if holds(task):
                    return
        raise AssertionError(f"the move ended too early: {await self.lab.manager.task(move.task_id)}")

    async def until_nic_is_left(self, move: Move, nic: str) -> None:
        """Wait until no disk stream is on that NIC any more."""
        await self._until_task(
            move,
            lambda task: any(it.nic == nic and not it.streams for it in (task.progress.nics if task.progress else ())),
        )

    async def until_gone(self, host: LabHost, point: str) -> None:
        """Wait until the agent is past that failpoint."""
        await eventually(lambda: not host.is_held(point))

    async def kill_qemu(self, host: LabHost) -> None:
        """SIGKILL, and wait until it has ended."""
        host.kill_qemu(VM.uuid)
        await eventually(lambda: VM.uuid not in host.qemu_pids())

    # Faults that are no method of a host.

    def kill_manager(self) -> None:
        """SIGKILL; the lab starts it again."""
        for pid in self.lab.world.pids():
            if processes.argv(pid)[1:4] == ["-m", "kvmove", "manager"]:
                os.kill(pid, signal.SIGKILL)
                return
        raise AssertionError("no manager runs")

    async def cancel(self, move: Move) -> int:
        """`kvmove task cancel`; its exit code."""
        process = await self._command("task", "cancel", move.task_id)
        await process.communicate()
        return process.returncode or 0

    async def show_task(self, move: Move) -> Task:
        """What `kvmove task show` says."""
        server = f"unix:{self.lab.folders.manager_socket}"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kvmove", "--server", server, "-o", "json", "task", "show", move.task_id,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await process.communicate()
        return Task.model_validate(json.loads(said))

    async def answers(self) -> bool:
        """Whether the manager reaches both hosts."""
        try:
            return all(host.reachable for host in await self.lab.manager.hosts())
        except KvmoveError:
            return False


def _in_the_middle_of_the_copy(task: Task) -> bool:
    if task.progress is None or task.progress.phase is not Phase.COPYING_DISKS or not task.progress.disks:
        return False
    disk = task.progress.disks[0]
    return disk.copied >= BULK_SHARE * disk.total
