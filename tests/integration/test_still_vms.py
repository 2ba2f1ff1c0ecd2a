"""VMs that do not run move too, and are afterwards as they were: paused or off. Their ledger is judged in the end."""

import asyncio
import time

import pytest

from kvmove.errors import CheckFailed, KvmoveError
from kvmove.lab import ledger_vm
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.moving import follow
from kvmove.lab.spec import LOCAL, SECOND, SHARED
from kvmove.model.move import MoveKind
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import VmState
from kvmove.units import MIB
from tests.support.audience import Quiet
from tests.support.eventually import eventually
from tests.support.moving_guest import World, world

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

VM = LedgerVm(name="still", memory=160 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=16, rate=300)

WAYS: tuple[tuple[str | None, str, MoveKind], ...] = (
    ("h2", LOCAL, MoveKind.UNIFIED),
    (None, SHARED, MoveKind.STORAGE),
    ("h1", SHARED, MoveKind.HOST),
    (None, SECOND, MoveKind.STORAGE),
    ("h2", SECOND, MoveKind.UNIFIED),
)
"""Host, datastore and kind of each move, from the local datastore of h1 on."""


async def go(there: World, host: str | None, datastore: str) -> Task:
    """One move, which must succeed."""
    request = there.request(host, datastore=datastore, verify=host is not None)
    ended = await follow(there.lab, await there.lab.manager.start_move(request), Quiet())
    assert ended.state is TaskState.SUCCEEDED
    return ended


async def state_of(there: World) -> tuple[str, VmState]:
    seen = await there.lab.manager.vm(str(VM.uuid))
    return seen.host, seen.state


async def wander(there: World, still: VmState) -> None:
    """All ways in turn. After each the VM is where it should be, still, and in no QEMU that it should not be in."""
    place = "h1"
    for host, datastore, kind in WAYS:
        ended = await go(there, host, datastore)
        assert ended.plan is not None and ended.report is not None
        assert (ended.plan.kind, ended.plan.power) == (kind, still.value)
        assert all(disk.source_digest == disk.destination_digest for disk in ended.report.disks)
        place = host or place
        assert await state_of(there) == (place, still)
        with_qemu = [it.name for it in there.lab.hosts if VM.uuid in it.qemu_pids()]
        assert with_qemu == ([place] if still is VmState.PAUSED else [])


async def test_a_paused_vm_moves_and_stays_paused() -> None:
    async with world(VM, "stl") as there:
        await there.lab.manager.pause_vm(VM.name)
        await wander(there, VmState.PAUSED)
        heard = ledger_vm.heard(there.lab, VM)
        assert heard
        await there.lab.manager.resume_vm(VM.name)
        await there.runs_on(there.lab.host("h2"))
        await there.move("h1")
        await there.runs_on(there.lab.host("h1"))
        await there.judge("h1", VM.disk_file(there.lab.host("h1")).parents[1] / SECOND / str(VM.uuid) / "root.raw")


async def test_a_vm_that_is_off_moves_and_starts_at_the_destination() -> None:
    async with world(VM, "stl") as there:
        await there.lab.manager.kill_vm(VM.name)
        await wander(there, VmState.OFF)
        await there.lab.manager.start_vm(VM.name)
        await there.runs_on(there.lab.host("h2"))
        await there.judge("h2", VM.disk_file(there.lab.host("h2")).parents[1] / SECOND / str(VM.uuid) / "root.raw")


@pytest.mark.parametrize("agent", ["h1", "h2"])
@pytest.mark.full
async def test_an_agent_that_dies_leaves_a_vm_that_is_off_where_it_was(agent: str) -> None:
    async with world(VM, "stl") as there:
        await there.lab.manager.kill_vm(VM.name)
        await there.fails(there.request("h2"), "source-mirroring", lambda: there.lab.host(agent).kill_agent())
        while await state_of(there) != ("h1", VmState.OFF):  # an agent that was restarted says so soon
            await asyncio.to_thread(time.sleep, 0.1)
        await go(there, "h2", LOCAL)
        assert await state_of(there) == ("h2", VmState.OFF)


@pytest.mark.parametrize("agent", ["h1", "h2"])
@pytest.mark.full
async def test_the_copy_of_a_paused_vm_outlives_an_agent(agent: str) -> None:
    async with world(VM, "stl") as there:
        await there.lab.manager.pause_vm(VM.name)
        source = there.lab.host("h1")
        source.arm("source-mirroring", "hold")
        task = await there.lab.manager.start_move(there.request("h2", verify=True))
        await eventually(lambda: source.is_held("source-mirroring"))
        there.lab.host(agent).kill_agent()
        source.disarm("source-mirroring")
        ended = await follow(there.lab, task, Quiet())
        assert ended.state is TaskState.SUCCEEDED and ended.report is not None
        assert any("was restarted; the copy goes on" in change.what for change in ended.report.changes)
        assert all(disk.source_digest == disk.destination_digest for disk in ended.report.disks)
        assert await state_of(there) == ("h2", VmState.PAUSED)
        await there.lab.manager.resume_vm(VM.name)
        await there.runs_on(there.lab.host("h2"))
        await there.judge("h2")


@pytest.mark.full
async def test_a_paused_vm_that_came_back_must_be_resumed_before_it_moves_again() -> None:
    async with world(VM, "stl") as there:
        await there.lab.manager.pause_vm(VM.name)
        destination = there.lab.host("h2")
        destination.arm("destination-committed", "fail")
        with pytest.raises(KvmoveError):
            await go(there, "h2", LOCAL)
        destination.disarm("destination-committed")
        assert await state_of(there) == ("h1", VmState.PAUSED)
        with pytest.raises(CheckFailed, match="came back paused") as caught:
            await go(there, "h2", LOCAL)
        assert "vm resume still" in caught.value.hint
        await there.lab.manager.resume_vm(VM.name)
        await there.runs_on(there.lab.host("h1"))
        await there.move("h2")
        await there.runs_on(destination)
        await there.judge("h2")
