"""A disk on a datastore that both hosts share: memory alone moves, and nobody copies, makes or deletes the disk.

The guest writes all the time, and its ledger is judged in the end.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvmove.errors import CheckFailed, KvmoveError
from kvmove.lab import ledger_vm
from kvmove.lab.demo import judge_disk
from kvmove.lab.guest.image import GuestImage, build
from kvmove.lab.lab import Lab
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.moving import WatchedMove, follow, watched_move
from kvmove.lab.spec import LOCAL, SHARED, DatastoreSpec, LabSpec
from kvmove.model.move import MoveKind, MoveRequest
from kvmove.model.vm import VmState
from kvmove.units import GIB, MIB
from tests.support.audience import Quiet
from tests.support.eventually import eventually
from tests.support.labs import lab_name, tidy_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

GUEST = Path(__file__).parents[2] / "build" / "guest"
VM = LedgerVm(
    name="sharer", memory=160 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=16, rate=300, datastore=SHARED
)  # fmt: skip


@dataclass
class World:
    """A lab with the guest running on h1, its disk on the shared datastore."""

    lab: Lab
    image: GuestImage

    @property
    def disk(self) -> Path:
        return VM.disk_file(self.lab.hosts[0])

    async def move(self, host: str, **options: str | None) -> WatchedMove:
        request = MoveRequest.model_validate({"vm": VM.name, "host": host, **options})
        return await watched_move(self.lab, VM, request, Quiet(), settle=0.5, sample=False)

    async def runs_on(self, host: LabHost) -> None:
        """It does, and nowhere else."""
        wanted = [it is host for it in self.lab.hosts]
        await eventually(lambda: [VM.uuid in it.qemu_pids() for it in self.lab.hosts] == wanted)
        vm = await self.lab.manager.vm(str(VM.uuid))
        assert (vm.host, vm.state) == (host.name, VmState.RUNNING)
        await ledger_vm.wait_until_heard(self.lab, VM)

    async def judge(self, host: str) -> None:
        """End the guest there; no acknowledged write may be missing."""
        verdict = await judge_disk(self.lab, VM, self.image, host)
        assert verdict.checked > 0
        assert verdict.ok, verdict


@asynccontextmanager
async def world(rate: int = 0) -> AsyncIterator[World]:
    image = await asyncio.to_thread(build, GUEST)
    spec = LabSpec(name=lab_name("shr"), nics=(rate,), datastore=DatastoreSpec(size=GIB), shared=True)
    async with tidy_lab(spec) as lab:
        await ledger_vm.define(lab, VM, image, "h1")
        await ledger_vm.start(lab, VM)
        yield World(lab, image)


async def test_memory_alone_moves_and_the_disk_is_the_same_file() -> None:
    async with world() as there:
        inode = there.disk.stat().st_ino
        for host in ("h2", "h1"):
            moved = await there.move(host)
            plan, report = moved.task.plan, moved.task.report
            assert plan is not None and report is not None
            assert plan.kind is MoveKind.HOST
            assert [it.name for it in plan.stays] == ["root"]
            assert report.disks == ()
            assert sum(moved.sent.values()) < report.memory_bytes * 1.05 + 2 * MIB, "memory, and nothing beside it"
            assert there.disk.stat().st_ino == inode
            await there.runs_on(there.lab.host(host))
        assert list(there.disk.parent.iterdir()) == [there.disk], "nothing marks the folder as partial"
        await there.judge("h1")


async def test_disks_go_from_shared_to_local_storage_and_back() -> None:
    async with world() as there:
        moved = await there.move("h2", datastore=LOCAL)
        assert moved.task.plan is not None and moved.task.plan.kind is MoveKind.UNIFIED
        assert not there.disk.exists()
        moved = await there.move("h1", datastore=SHARED)
        assert there.disk.exists()
        await there.runs_on(there.lab.host("h1"))
        await there.judge("h1")


async def test_an_unknown_disk_is_refused_and_nothing_changes() -> None:
    async with world() as there:
        request = MoveRequest(vm=VM.name, host="h2", disks={"data": LOCAL})
        with pytest.raises(CheckFailed, match="sharer has no disk data") as caught:
            await there.lab.manager.start_move(request)
        assert "root" in caught.value.hint
        await there.runs_on(there.lab.host("h1"))


Fault = Callable[[LabHost, LabHost], object]
FAULTS: dict[str, tuple[str, Fault]] = {
    "destination-qemu": ("source-pre-copy", lambda source, destination: destination.kill_qemu(VM.uuid)),
    "destination-agent": ("source-pre-switchover", lambda source, destination: destination.kill_agent()),
    "source-agent": ("source-pre-switchover", lambda source, destination: source.kill_agent()),
}


@pytest.mark.parametrize(("point", "fault"), FAULTS.values(), ids=FAULTS)
async def test_a_failed_host_move_leaves_the_shared_disk_alone(point: str, fault: Fault) -> None:
    async with world() as there:
        source, destination = there.lab.hosts
        inode = there.disk.stat().st_ino
        source.arm(point, "hold")
        task = await there.lab.manager.start_move(MoveRequest(vm=VM.name, host="h2"))
        await eventually(lambda: source.is_held(point))
        fault(source, destination)
        source.disarm(point)
        with pytest.raises(KvmoveError):
            await follow(there.lab, task, Quiet())
        await there.runs_on(source)
        assert there.disk.stat().st_ino == inode
        await there.judge("h1")


async def test_a_vm_that_could_not_run_at_the_destination_is_given_back_with_its_disk() -> None:
    async with world() as there:
        source, destination = there.lab.hosts
        inode = there.disk.stat().st_ino
        destination.arm("destination-committed", "fail")
        with pytest.raises(KvmoveError):
            await there.move("h2")
        destination.disarm("destination-committed")
        await there.runs_on(source)
        assert there.disk.stat().st_ino == inode
        await there.judge("h1")
