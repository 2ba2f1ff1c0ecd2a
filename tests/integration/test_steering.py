"""A move that is steered while it runs: paused, capped, kept in step until it is told to switch over, called off.

The guest writes all the time, and its ledger is judged in the end.
"""

from collections.abc import Callable

import pytest

from kvmove.errors import Busy, KvmoveError, NotConverged
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.moving import follow
from kvmove.model.move import MoveProgress, Phase
from kvmove.model.task import Task, TaskChange, TaskState
from kvmove.model.terms import LEAST_BANDWIDTH
from kvmove.units import MIB
from tests.support.audience import Quiet
from tests.support.eventually import eventually
from tests.support.moving_guest import World, world

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

VM = LedgerVm(name="steered", memory=160 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=16, rate=300)
CAP = 8 * MIB

BUSY = LedgerVm(name="busy", memory=160 * MIB, disk=64 * MIB, data=8 * MIB, ram_mib=24, ram_rate=20_000, rate=50)
SLOW_NIC = 6_000_000


async def begin(there: World, host: str, **options: object) -> Task:
    return await there.lab.manager.start_move(there.request(host, **options))


async def until(there: World, task: Task, holds: Callable[[MoveProgress], bool]) -> MoveProgress:
    """The first progress of which it holds."""
    async for newer in there.lab.manager.watch_task(task.id):
        assert not newer.ended_state, newer.problem
        if newer.progress is not None and holds(newer.progress):
            return newer.progress
    raise AssertionError("the task is watched no more")


def in_the_middle(progress: MoveProgress) -> bool:
    return progress.phase is Phase.COPYING_DISKS and bool(progress.disks) and progress.disks[0].copied > 16 * MIB


def waits(progress: MoveProgress) -> bool:
    return progress.waits_for_word


def copied(progress: MoveProgress) -> int:
    return progress.disks[0].copied


async def called_off(there: World, task: Task) -> None:
    """Cancelled; the guest is where it was."""
    await there.lab.manager.cancel_task(task.id)
    with pytest.raises(KvmoveError):
        await follow(there.lab, task, Quiet())
    assert (await there.lab.manager.task(task.id)).state is TaskState.CANCELLED
    await there.runs_on(there.lab.host("h1"))


async def test_a_move_does_as_it_is_told() -> None:
    async with world(VM, "steer") as there:
        await paused_kept_in_step_and_let_go(there)
        await there.judge("h2")


async def paused_kept_in_step_and_let_go(there: World) -> None:
    manager = there.lab.manager
    task = await begin(there, "h2", switchover="manual", bandwidth=CAP, verify=True)
    with pytest.raises(Busy):
        await manager.resume_task(task.id)
    early = await until(there, task, in_the_middle)
    rate = copied(early) / early.elapsed_seconds
    assert early.bandwidth == CAP
    assert rate < 1.1 * CAP

    await manager.pause_task(task.id)
    paused = await until(there, task, lambda it: it.elapsed_seconds > early.elapsed_seconds + 1 and bool(it.paused_by))
    later = await until(there, task, lambda it: it.elapsed_seconds > paused.elapsed_seconds + 2)
    assert copied(later) - copied(paused) <= 2 * MIB, "regions that were begun are finished, no others"
    assert later.disks[0].mirrored > paused.disks[0].mirrored, "the guest goes on, and so does the mirror"
    assert later.disks[0].mode == "async"
    assert (later.message, later.eta_seconds) == ("paused by root", None)

    await manager.change_task(task.id, TaskChange.model_validate({"bandwidth": "none", "max_downtime_ms": 700}))
    await manager.resume_task(task.id)
    stands = await until(there, task, waits)
    later = await until(there, task, lambda it: it.elapsed_seconds > stands.elapsed_seconds + 3)
    assert later.message == "in step; waits for the word to switch over"
    assert (later.percent, later.phase) == (stands.percent, Phase.COPYING_DISKS)
    assert later.memory.transferred == 0, "memory is not sent before the word"
    assert (later.bandwidth, later.max_downtime_ms) == (0, 700)

    await manager.switch_task_over(task.id)
    report = (await follow(there.lab, task, Quiet())).report
    assert report is not None
    assert report.disks[0].source_digest == report.disks[0].destination_digest != ""
    assert 0 < report.disks[0].hold_p50_ms <= report.disks[0].hold_p99_ms <= report.disks[0].hold_worst_ms
    assert [change.what for change in report.changes][:2] == ["paused by root", "bandwidth set to no cap by root"]
    with pytest.raises(Busy):
        await manager.pause_task(task.id)


@pytest.mark.full
async def test_faults_while_it_stands_leave_the_vm_at_the_source() -> None:
    async with world(VM, "stf") as there:
        manager, source = there.lab.manager, there.lab.host("h1")
        task = await begin(there, "h2", bandwidth=CAP)
        await until(there, task, in_the_middle)
        await manager.pause_task(task.id)
        await called_off(there, task)

        task = await begin(there, "h2", bandwidth=CAP)
        await until(there, task, in_the_middle)
        await manager.change_task(task.id, TaskChange(bandwidth=LEAST_BANDWIDTH))
        await until(there, task, lambda it: it.bandwidth == LEAST_BANDWIDTH)
        await called_off(there, task)

        task = await begin(there, "h2", switchover="manual")
        await until(there, task, waits)
        source.kill_agent()
        with pytest.raises(KvmoveError):
            await follow(there.lab, task, Quiet())
        await there.runs_on(source)
        await there.judge("h1")


@pytest.mark.full
async def test_memory_is_held_and_cancelled() -> None:
    """QEMU, held by the relay as by a network that carries nothing, heeds a cancel; let go, it goes on."""
    async with world(BUSY, "sth", nic=SLOW_NIC) as there:
        task = await begin(there, "h2", bandwidth=2 * MIB)
        await until(there, task, lambda it: it.memory.transferred > 4 * MIB)
        await there.lab.manager.pause_task(task.id)
        paused = await until(there, task, lambda it: bool(it.paused_by))
        later = await until(there, task, lambda it: it.elapsed_seconds > paused.elapsed_seconds + 3)
        assert later.nics[0].sent - paused.nics[0].sent < MIB
        await called_off(there, task)
        await there.judge("h1")


@pytest.mark.full
async def test_a_guest_that_outruns_the_wire_moves_all_the_same() -> None:
    async with world(BUSY, "stm", nic=SLOW_NIC) as there:
        task = await begin(there, "h2", policy="minimal-downtime")
        told = await until(there, task, lambda it: "will not converge" in it.message)
        assert told.memory.throttle == 0
        with pytest.raises(NotConverged):
            await follow(there.lab, task, Quiet())
        await there.runs_on(there.lab.host("h1"))

        task = await begin(there, "h2", policy="suspend-if-needed", max_slowdown=0)
        report = (await follow(there.lab, task, Quiet())).report
        assert report is not None
        assert any("downtime limit" in change.what for change in report.changes)
        await eventually(lambda: BUSY.uuid in there.lab.host("h2").qemu_pids())
        await there.judge("h2")


@pytest.mark.full
async def test_a_guest_that_outruns_the_wire_is_slowed() -> None:
    async with world(BUSY, "stb", nic=SLOW_NIC) as there:
        task = await begin(there, "h2", max_slowdown=95)
        report = (await follow(there.lab, task, Quiet())).report
        assert report is not None
        throttles = [change.what for change in report.changes if change.what.startswith("vCPUs held back")]
        assert throttles
        assert not any(" 99 %" in what for what in throttles)
        await there.judge("h2")
