"""A disk on a datastore that both hosts share: memory alone moves, and nobody copies, makes or deletes the disk.

The guest writes all the time, and its ledger is judged in the end.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from kvmove.errors import CheckFailed, KvmoveError
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.spec import LOCAL, SHARED
from kvmove.model.move import MoveKind
from kvmove.units import MIB
from tests.support.eventually import eventually
from tests.support.moving_guest import world

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

VM = LedgerVm(
    name="sharer", memory=160 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=16, rate=300, datastore=SHARED
)  # fmt: skip


async def test_memory_alone_moves_and_the_disk_is_the_same_file() -> None:
    async with world(VM, "shr") as there:
        disk = VM.disk_file(there.lab.hosts[0])
        inode = disk.stat().st_ino
        for host in ("h2", "h1"):
            moved = await there.move(host)
            plan, report = moved.task.plan, moved.task.report
            assert plan is not None and report is not None
            assert plan.kind is MoveKind.HOST
            assert [it.name for it in plan.stays] == ["root"]
            assert report.disks == ()
            assert sum(moved.sent.values()) < report.memory_bytes * 1.05 + 2 * MIB, "memory, and nothing beside it"
            assert disk.stat().st_ino == inode
            await there.runs_on(there.lab.host(host))
        assert list(disk.parent.iterdir()) == [disk], "nothing marks the folder as partial"
        await there.judge("h1")


@pytest.mark.full
async def test_disks_go_from_shared_to_local_storage_and_back() -> None:
    """Back they go over the storage network: no disk byte crosses a migration NIC."""
    async with world(VM, "shr") as there:
        disk = VM.disk_file(there.lab.hosts[0])
        moved = await there.move("h2", datastore=LOCAL, verify=True)
        assert moved.task.plan is not None and moved.task.plan.kind is MoveKind.UNIFIED
        assert not moved.task.plan.over_storage
        assert not disk.exists()
        moved = await there.move("h1", datastore=SHARED, verify=True)
        plan, report = moved.task.plan, moved.task.report
        assert plan is not None and report is not None
        assert plan.over_storage
        assert moved.digests_equal
        assert sum(report.disks[0].moved_by.values()) >= VM.data
        assert sum(moved.sent.values()) < report.memory_bytes * 1.05 + 2 * MIB, "memory, and nothing beside it"
        assert sum(report.bytes_per_nic.values()) >= report.memory_bytes
        assert disk.exists()
        await there.runs_on(there.lab.host("h1"))
        await there.judge("h1")


async def test_an_unknown_disk_is_refused_and_nothing_changes() -> None:
    async with world(VM, "shr") as there:
        with pytest.raises(CheckFailed, match="sharer has no disk data") as caught:
            await there.lab.manager.start_move(there.request("h2", disks={"data": LOCAL}))
        assert "root" in caught.value.hint
        await there.runs_on(there.lab.host("h1"))


Fault = Callable[[LabHost, LabHost], object]


async def test_a_failed_move_over_the_storage_network_leaves_nothing_there() -> None:
    async with world(replace(VM, datastore=LOCAL), "shr") as there:
        source, destination = there.lab.hosts
        request = there.request("h2", datastore=SHARED)
        await there.fails(request, "source-pre-copy", lambda: destination.kill_qemu(VM.uuid))
        await there.runs_on(source)
        await eventually(lambda: not VM.disk_file(source).parent.exists())
        await there.move("h2", datastore=SHARED, via="migration")
        await there.runs_on(destination)
        await there.judge("h2", VM.disk_file(destination))


FAULTS: dict[str, tuple[str, Fault]] = {
    "destination-qemu": ("source-pre-copy", lambda source, destination: destination.kill_qemu(VM.uuid)),
    "destination-agent": ("source-pre-switchover", lambda source, destination: destination.kill_agent()),
    "source-agent": ("source-pre-switchover", lambda source, destination: source.kill_agent()),
}


FULL = pytest.mark.full
IN_FULL = [pytest.param(*it, id=name, marks=() if name == "source-agent" else FULL) for name, it in FAULTS.items()]


@pytest.mark.parametrize(("point", "fault"), IN_FULL)
async def test_a_failed_host_move_leaves_the_shared_disk_alone(point: str, fault: Fault) -> None:
    async with world(VM, "shr") as there:
        source, destination = there.lab.hosts
        inode = VM.disk_file(source).stat().st_ino
        await there.fails(there.request("h2"), point, lambda: fault(source, destination))
        await there.runs_on(source)
        assert VM.disk_file(source).stat().st_ino == inode
        await there.judge("h1")


async def test_a_vm_that_could_not_run_at_the_destination_is_given_back_with_its_disk() -> None:
    async with world(VM, "shr") as there:
        source, destination = there.lab.hosts
        inode = VM.disk_file(source).stat().st_ino
        destination.arm("destination-committed", "fail")
        with pytest.raises(KvmoveError):
            await there.move("h2")
        destination.disarm("destination-committed")
        await there.runs_on(source)
        assert VM.disk_file(source).stat().st_ino == inode
        await there.judge("h1")
