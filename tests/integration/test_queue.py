"""Several moves (eight in `make full`) asked for at once: as many run as the limits allow, the rest wait their turn,
and a killed manager loses none of them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from kvmove.errors import KvmoveError, Unreachable
from kvmove.lab import processes
from kvmove.lab.lab import Lab
from kvmove.lab.spec import LOCAL, LabSpec
from kvmove.model.log import LogLine
from kvmove.model.move import MoveRequest
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import DiskDefinition, VmDefinition, VmState
from kvmove.units import MIB
from tests.support.labs import SMALL, lab_name, tidy_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

AT_ONCE = 2
"""A unified move takes 4 of the 8 units of a host."""

POINT = "source-mirroring"
MANAGER = ("-m", "kvmove", "manager")
NAMES = tuple(f"vm{number}" for number in range(1, 9))
full = pytest.mark.full


def small(number: int) -> VmDefinition:
    """A machine that boots nothing: the queue is what is tested here."""
    disks = (DiskDefinition(name="root", datastore=LOCAL, size=8 * MIB),)
    return VmDefinition(name=NAMES[number], uuid=UUID(int=number + 1), memory=64 * MIB, vcpus=1, disks=disks)


@asynccontextmanager
async def vms(count: int) -> AsyncIterator[Lab]:
    spec = LabSpec(name=lab_name("queue"), nics=(125_000_000,), datastore=SMALL)
    async with tidy_lab(spec) as lab:
        for number in range(count):
            await lab.manager.define_vm("h1", small(number))
        await asyncio.gather(*(lab.manager.start_vm(name) for name in NAMES[:count]))
        yield lab


def kill_manager(lab: Lab) -> None:
    [pid] = [pid for pid in lab.world.pids() if tuple(processes.argv(pid)[1:4]) == MANAGER]
    os.kill(pid, signal.SIGKILL)


async def tasks(lab: Lab) -> list[Task]:
    """All tasks, oldest first; a manager that is just being started is waited for."""
    while True:
        try:
            return (await lab.manager.tasks())[::-1]
        except Unreachable:
            await asyncio.sleep(0.1)


async def settled(lab: Lab, running: int) -> list[Task]:
    """The tasks once so many run and every other one knows its place."""
    while True:
        seen = await tasks(lab)
        queued = [task for task in seen if task.state is TaskState.QUEUED]
        if sum(task.state is TaskState.RUNNING for task in seen) == running and all(task.position for task in queued):
            return seen
        await asyncio.sleep(0.1)


async def ask_for_all(lab: Lab, count: int) -> list[str]:
    """Ask for the moves of so many VMs at once; the ids in the order of NAMES."""
    asked = [MoveRequest(vm=name, host="h2") for name in NAMES[:count]]
    return [task.id for task in await asyncio.gather(*map(lab.manager.start_move, asked))]


async def worked_off(lab: Lab, ids: Sequence[str], kill_after: int) -> list[Task]:
    """Wait for the end of all; once `kill_after` have ended the manager is killed. Never do more run than may."""
    while True:
        seen = [task for task in await tasks(lab) if task.id in ids]
        assert sum(task.state is TaskState.RUNNING for task in seen) <= AT_ONCE
        qemus = sum(len(host.qemu_pids()) for host in lab.hosts)
        assert qemus <= len(ids) + AT_ONCE  # a move has two for a while
        ended = sum(task.ended_state for task in seen)
        if ended == len(ids):
            return seen
        if ended >= kill_after:
            kill_manager(lab)
            kill_after = len(ids)
        await asyncio.sleep(0.2)


def most_at_once(ended: Sequence[Task]) -> int:
    """How many ran at one moment, by the times of the tasks themselves."""
    return max(sum(str(a.started) <= str(b.started) < str(a.ended) for a in ended) for b in ended)


@pytest.mark.parametrize("count", [4, pytest.param(8, marks=full)])
async def test_moves_at_once_wait_their_turn_and_a_killed_manager_loses_none(count: int) -> None:
    async with vms(count) as lab:
        source = lab.host("h1")
        source.arm(POINT, "hold")
        ids = await ask_for_all(lab, count)
        before = await settled(lab, AT_ONCE)
        assert sorted(task.id for task in before) == sorted(ids)
        queued = [task for task in before if task.state is TaskState.QUEUED]
        movers = [task.vm for task in before if task.state is TaskState.RUNNING]
        assert sorted(task.position or 0 for task in queued) == list(range(1, count - AT_ONCE + 1))
        first = min(queued, key=lambda task: task.position or 0)
        said = "waits for h1: 8 of 8 units are taken by moves of"
        assert first.queue_reason == f"{said} {movers[0]} and {movers[1]}"
        with pytest.raises(KvmoveError, match="has a move that is queued"):
            await lab.manager.start_move(MoveRequest(vm=first.vm, host="h2"))

        kill_manager(lab)
        after = await settled(lab, AT_ONCE)
        assert [(task.id, task.position) for task in after] == [(task.id, task.position) for task in before]
        cancelled = max(queued, key=lambda task: task.position or 0)
        assert (await lab.manager.cancel_task(cancelled.id)).state is TaskState.CANCELLED

        source.disarm(POINT)
        ended = await worked_off(lab, ids, kill_after=count // 2)
        moved = [task for task in ended if task.id != cancelled.id]
        assert {task.state for task in moved} == {TaskState.SUCCEEDED}, [task.problem for task in moved]
        assert most_at_once(moved) == AT_ONCE
        await every_vm_is_where_its_task_says(lab, ended)
        again = await lab.manager.retry_task(cancelled.id)
        await its_log_is_in_one_place(lab, again)


async def every_vm_is_where_its_task_says(lab: Lab, ended: Sequence[Task]) -> None:
    found = {vm.definition.name: vm for vm in await lab.manager.vms()}
    for task in ended:
        vm = found[task.vm]
        assert vm.state is VmState.RUNNING
        assert vm.host == ("h2" if task.state is TaskState.SUCCEEDED else "h1")
        assert task.vm_state == f"running on {vm.host}"
        assert [host.name for host in lab.hosts if vm.definition.uuid in host.qemu_pids()] == [vm.host]


async def its_log_is_in_one_place(lab: Lab, task: Task) -> None:
    async for state in lab.manager.watch_task(task.id):
        task = state
    assert task.state is TaskState.SUCCEEDED
    lines = await log_with(lab, task, {"manager", "h1", "h2"})
    assert [line.time for line in lines] == sorted(line.time for line in lines)
    texts = [line.text for line in lines if line.place == "h1"]
    assert any("copying-memory" in text for text in texts)
    assert any("stream" in text for text in texts)


async def log_with(lab: Lab, task: Task, places: set[str]) -> list[LogLine]:
    """The task's log, which every one of these has written to."""
    lines = await lab.manager.task_log(task.id)
    assert {line.place for line in lines} == places
    return lines
