"""A VM with several disks: each goes where it is told, or stays; and what fails for one leaves all as they were."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kvmove.errors import KvmoveError
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.spec import LOCAL, SECOND, SHARED
from kvmove.units import MIB
from tests.support.moving_guest import World, world

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

VM = LedgerVm(name="triple", memory=160 * MIB, disk=128 * MIB, data=32 * MIB, ram_mib=16, rate=100, disks=3)
ROOT, ONE, TWO = VM.disk_names


async def lie_in(there: World, host: str, *datastores: str) -> None:
    """The disks, in their order, and no file of them anywhere else."""
    seen = await there.lab.manager.vm(VM.name)
    assert (seen.host, tuple(disk.datastore for disk in seen.definition.disks)) == (host, datastores)
    wanted = dict(zip(VM.disk_names, datastores, strict=True))
    for name, folder in folders(there.lab.host(host)).items():
        here = {path.stem for path in folder.iterdir()} if folder.exists() else set()
        assert here == {disk for disk, datastore in wanted.items() if datastore == name}, name


def folders(host: LabHost) -> dict[str, Path]:
    local = host.datastore_called(LOCAL)
    roots = {LOCAL: local, SECOND: local / SECOND, SHARED: host.datastore_called(SHARED)}
    return {name: root / str(VM.uuid) for name, root in roots.items()}


@pytest.mark.full
async def test_each_disk_goes_where_it_is_told_or_stays() -> None:
    async with world(VM, "sev") as there:
        await there.move(None, disks={ONE: f"{SECOND}:qcow2"})
        await lie_in(there, "h1", LOCAL, SECOND, LOCAL)
        await there.move(None, disks={ROOT: SECOND, ONE: LOCAL, TWO: SHARED})
        await lie_in(there, "h1", SECOND, LOCAL, SHARED)
        await there.runs_on(there.lab.host("h1"))
        moved = await there.move("h2", verify=True)
        assert moved.digests_equal
        assert moved.task.plan is not None and [it.name for it in moved.task.plan.stays] == [TWO]
        await lie_in(there, "h2", SECOND, LOCAL, SHARED)
        await there.move("h1", datastore=LOCAL, verify=True)
        await lie_in(there, "h1", LOCAL, LOCAL, LOCAL)
        await there.runs_on(there.lab.host("h1"))
        await there.judge_all()


@pytest.mark.full
async def test_a_disk_beside_which_others_stay_can_be_given_back() -> None:
    async with world(VM, "sev") as there:
        await there.move(None, disks={TWO: SHARED})
        destination = there.lab.host("h2")
        destination.arm("destination-committed", "fail")
        with pytest.raises(KvmoveError):
            await there.move("h2", disks={ROOT: SHARED, ONE: LOCAL})
        destination.disarm("destination-committed")
        await there.runs_on(there.lab.host("h1"))
        await lie_in(there, "h1", LOCAL, LOCAL, SHARED)
        await there.judge_all()


Fault = Callable[[LabHost], object]

FAULTS: dict[str, tuple[str, Fault]] = {
    "agent-in-the-copy": ("storage-mirroring", lambda host: host.kill_agent()),
    "agent-after-the-switch": ("storage-pivoted", lambda host: host.kill_agent()),
}


@pytest.mark.parametrize(("point", "fault"), FAULTS.values(), ids=FAULTS)
@pytest.mark.full
async def test_what_fails_for_one_disk_leaves_all_as_they_were(point: str, fault: Fault) -> None:
    async with world(VM, "sev", hosts=1) as there:
        host = there.lab.host("h1")
        request = there.request(None, disks={ROOT: SECOND, ONE: SHARED})
        await there.fails(request, point, lambda: fault(host))
        await there.runs_on(host)
        await lie_in(there, "h1", LOCAL, LOCAL, LOCAL)
        await there.move(None, disks={ROOT: SECOND, ONE: SHARED})
        await lie_in(there, "h1", SECOND, SHARED, LOCAL)
        await there.judge_all()
