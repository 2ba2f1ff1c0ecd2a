"""A running VM's disks go to another datastore of its host, under its writes; its QEMU is the same afterwards."""

import subprocess
from pathlib import Path

import pytest

from kvmove.disk.offload import Rung
from kvmove.errors import Cancelled
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import DISK, LedgerVm
from kvmove.lab.moving import follow
from kvmove.lab.spec import LOCAL, SECOND, SHARED
from kvmove.model.move import MoveKind
from kvmove.model.task import TaskState
from kvmove.units import MIB
from tests.support.audience import Quiet
from tests.support.eventually import eventually
from tests.support.moving_guest import World, world
from tests.support.storage_trouble import fill

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

REFLINK, READ_WRITE = str(Rung.REFLINK), str(Rung.READ_WRITE)

VM = LedgerVm(name="stayer", memory=160 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=16, rate=300)


def places(host: LabHost) -> dict[str, Path]:
    """Where the disk would lie in each datastore."""
    local = host.datastore_called(LOCAL)
    roots = {LOCAL: local, SECOND: local / SECOND, SHARED: host.datastore_called(SHARED)}
    return {name: root / str(VM.uuid) / f"{DISK}.raw" for name, root in roots.items()}


async def lies_in(there: World, datastore: str) -> None:
    """There and nowhere else, in the definition too."""
    found = places(there.lab.host("h1"))
    assert {name for name, path in found.items() if path.exists()} == {datastore}
    assert list(found[datastore].parent.iterdir()) == [found[datastore]]
    vm = await there.lab.manager.vm(str(VM.uuid))
    assert [disk.datastore for disk in vm.definition.disks] == [datastore]


async def test_disks_move_from_datastore_to_datastore_while_the_guest_writes() -> None:
    async with world(VM, "sto", hosts=1) as there:
        host = there.lab.host("h1")
        pid = host.qemu_pids()[VM.uuid]
        for datastore, rung in ((SECOND, REFLINK), (SHARED, READ_WRITE), (LOCAL, READ_WRITE), (SECOND, REFLINK)):
            moved = await there.move(None, datastore=datastore)
            plan, report = moved.task.plan, moved.task.report
            assert plan is not None and report is not None
            assert plan.kind is MoveKind.STORAGE
            [disk] = report.disks
            assert disk.moved_by[rung] >= 96 * MIB, disk
            assert report.downtime_ms > 0
            assert set(report.switchover_ms) == {"stop", "drain", "sync", "pivot"}
            assert sum(moved.sent.values()) < MIB, "no disk byte over a migration NIC"
            await lies_in(there, datastore)
            await there.runs_on(host)
            assert host.qemu_pids()[VM.uuid] == pid
        await there.judge("h1", places(host)[SECOND])


async def test_a_vm_moves_away_after_its_disks_have_moved() -> None:
    async with world(VM, "sto") as there:
        await there.move(None, datastore=SECOND)
        await there.move("h2", verify=True)
        await there.runs_on(there.lab.host("h2"))
        await there.judge("h2", places(there.lab.host("h2"))[SECOND])


async def test_a_storage_move_can_be_cancelled() -> None:
    async with world(VM, "sto", hosts=1) as there:
        host, manager = there.lab.host("h1"), there.lab.manager
        host.arm("storage-mirroring", "hold")
        task = await manager.start_move(there.request(None, datastore=SHARED))
        await eventually(lambda: host.is_held("storage-mirroring"))
        await manager.cancel_task(task.id)
        host.disarm("storage-mirroring")
        with pytest.raises(Cancelled):
            await follow(there.lab, task, Quiet())
        await there.runs_on(host)
        await lies_in(there, LOCAL)
        await there.judge("h1")


UNDONE = [
    pytest.param("storage-prepared", marks=pytest.mark.full),
    pytest.param("storage-mirroring", marks=pytest.mark.full),
    "storage-synced",
    "storage-pivoted",
]


@pytest.mark.parametrize("point", UNDONE)
async def test_an_agent_that_dies_before_its_word_leaves_the_vm_on_its_old_disks(point: str) -> None:
    async with world(VM, "sto", hosts=1) as there:
        host = there.lab.host("h1")
        task = await there.fails(there.request(None, datastore=SHARED), point, host.kill_agent)
        assert task.state is TaskState.FAILED
        await there.runs_on(host)
        await lies_in(there, LOCAL)
        await there.move(None, datastore=SHARED)
        await lies_in(there, SHARED)
        await there.judge("h1", places(host)[SHARED])


async def test_an_agent_that_dies_after_its_word_finishes_the_move() -> None:
    async with world(VM, "sto", hosts=1) as there:
        host = there.lab.host("h1")
        host.arm("storage-cleaning-up", "hold")
        task = await there.lab.manager.start_move(there.request(None, datastore=SHARED))
        await eventually(lambda: host.is_held("storage-cleaning-up"))
        host.kill_agent()
        host.disarm("storage-cleaning-up")
        await eventually(lambda: not places(host)[LOCAL].exists())
        await there.runs_on(host)
        await lies_in(there, SHARED)
        await follow(there.lab, task, Quiet())
        await there.judge("h1", places(host)[SHARED])


async def test_a_datastore_that_fills_up_ends_the_move_and_nothing_else() -> None:
    async with world(VM, "sto", hosts=1) as there:
        host = there.lab.host("h1")
        await there.move(None, datastore=SHARED)
        filler = host.datastore / "filler"
        request = there.request(None, datastore=LOCAL)
        task = await there.fails(request, "storage-mirroring", lambda: fill(filler))
        assert "No space left" in str(task.problem)
        filler.unlink()
        await there.runs_on(host)
        await lies_in(there, SHARED)
        await there.judge("h1", places(host)[SHARED])


async def test_a_word_that_cannot_be_written_is_not_given() -> None:
    async with world(VM, "sto", hosts=1) as there:
        host = there.lab.host("h1")
        journals = there.lab.folders.host("h1") / "agent" / "journal" / "outgoing"

        def protect(how: str = "+i") -> None:
            [journal] = journals.iterdir()
            subprocess.run(["chattr", how, str(journal)], check=True)

        try:
            task = await there.fails(there.request(None, datastore=SHARED), "storage-pivoted", protect)
        finally:
            protect("-i")
        assert "journal cannot be written" in str(task.problem)
        await there.runs_on(host)
        await lies_in(there, LOCAL)
        host.kill_agent()  # the next one finds the move unfinished in its journal
        await there.runs_on(host)
        await lies_in(there, LOCAL)
        await there.judge("h1")


async def test_a_qemu_that_dies_in_the_copy_leaves_the_old_disks_whole() -> None:
    async with world(VM, "sto", hosts=1) as there:
        host = there.lab.host("h1")
        request = there.request(None, datastore=SHARED)
        await there.fails(request, "storage-mirroring", lambda: host.kill_qemu(VM.uuid))
        await lies_in(there, LOCAL)
        await there.lab.manager.start_vm(str(VM.uuid))
        await there.runs_on(host)
        await there.judge("h1")
