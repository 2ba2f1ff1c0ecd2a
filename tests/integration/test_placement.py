"""Maintenance and balancing on a lab of four hosts: what is done is what was planned."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from kvmove.errors import CheckFailed, Unreachable
from kvmove.lab import processes
from kvmove.lab.lab import Lab
from kvmove.lab.spec import LOCAL, SHARED, LabSpec
from kvmove.model.move import MoveKind, MoveRequest
from kvmove.model.placement import EvacuationPlan, MaintenanceRequest, MaintenanceState
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import DiskDefinition, VmDefinition, VmState
from kvmove.units import GIB, MIB
from tests.support.comes_true import comes_true
from tests.support.eventually import eventually
from tests.support.labs import SMALL, lab_name, tidy_lab

pytestmark = [pytest.mark.lab, pytest.mark.full, pytest.mark.timeout(600)]

MEMORY = 448 * MIB
MANAGER = ("-m", "kvmove", "manager")
HELD = "source-pre-copy"
PLACES = {"a": SHARED, "b": SHARED, "c": SHARED, "d": LOCAL, "e": LOCAL, "f": LOCAL}


@asynccontextmanager
async def six_on_h1(purpose: str) -> AsyncIterator[Lab]:
    """Four hosts that count as having 4 GiB, and six running VMs without an operating system on the first. Memory that
    is promised is what loads the hosts: it does not depend on what this machine does otherwise."""
    spec = LabSpec(
        name=lab_name(purpose), hosts=("h1", "h2", "h3", "h4"), nics=(0,), datastore=SMALL, shared=True,
        host_memory=4 * GIB,
    )  # fmt: skip
    async with tidy_lab(spec) as lab:
        for name, datastore in PLACES.items():
            disk = DiskDefinition(name="root", datastore=datastore, size=16 * MIB)
            await lab.manager.define_vm("h1", VmDefinition(name=name, uuid=uuid4(), memory=MEMORY, disks=(disk,)))
            await lab.manager.start_vm(name)
        yield lab


async def ended(lab: Lab, task: Task) -> Task:
    """The task once it has ended, over restarts of the manager."""
    while not task.ended_state:
        try:
            async for state in lab.manager.watch_task(task.id, task.revision):
                task = state
        except Unreachable:
            await asyncio.sleep(0.2)
    return task


def as_shown(plan: EvacuationPlan, **terms: bool | int) -> MaintenanceRequest:
    return MaintenanceRequest.model_validate({**terms, "steps": [step.decided for step in plan.steps]})


async def held_in_the_middle(lab: Lab, request: MaintenanceRequest) -> Task:
    """An evacuation of h1 of which the first moves have begun and stand still until `lab.host("h1").disarm(HELD)`."""
    lab.host("h1").arm(HELD, "hold")
    task = await lab.manager.enter_maintenance("h1", request)
    await eventually(lambda: lab.host("h1").is_held(HELD))
    return task


async def places(lab: Lab) -> dict[str, str]:
    seen = await lab.manager.vms()
    assert all(vm.state is VmState.RUNNING for vm in seen)
    return {vm.definition.name: vm.host for vm in seen}


async def kinds(lab: Lab, parent: Task) -> dict[str, MoveKind]:
    tasks = [task for task in await lab.manager.tasks() if task.parent == parent.id]
    assert [(task.vm, task.state, task.problem) for task in tasks if task.state is not TaskState.SUCCEEDED] == []
    return {task.vm: task.plan.kind for task in tasks if task.plan is not None}


async def test_an_evacuation_does_what_its_plan_said() -> None:
    async with six_on_h1("evac") as lab:
        careful = await lab.manager.check_maintenance("h1", MaintenanceRequest())
        assert {step.vm for step in careful.steps} == {"a", "b", "c"}
        assert {it.vm for it in careful.remains} == {"d", "e", "f"}
        assert all("--move-disks" in it.why for it in careful.remains)
        request = MaintenanceRequest(move_disks=True)
        plan = await lab.manager.check_maintenance("h1", request)
        task = await ended(lab, await lab.manager.enter_maintenance("h1", as_shown(plan, move_disks=True)))
        assert (task.state, task.vm_state, task.notes) == (TaskState.SUCCEEDED, "6 moved", ()), task.problem
        assert {step.vm: step.destination for step in plan.steps} == await places(lab)
        assert {step.vm: step.kind for step in plan.steps} == await kinds(lab, task)
        mark = (await lab.manager.host("h1")).maintenance
        assert mark is not None and (mark.state, mark.remains) == (MaintenanceState.ON, ())
        with pytest.raises(CheckFailed, match="h1 is in maintenance"):
            await lab.manager.start_move(MoveRequest(vm="a", host="h1"))
        assert (await lab.manager.exit_maintenance("h1")).maintenance is None
        checked = await lab.manager.check_move(MoveRequest(vm="a", host="auto"))
        assert checked.plan.destination.name == "h1", "the one that has nothing to do"


async def test_a_step_that_is_not_possible_any_more_goes_elsewhere_and_the_task_says_so() -> None:
    async with six_on_h1("anew") as lab:
        plan = await lab.manager.check_maintenance("h1", MaintenanceRequest())
        shut = plan.steps[0].destination
        await ended(lab, await lab.manager.enter_maintenance(shut, MaintenanceRequest()))
        task = await ended(lab, await lab.manager.enter_maintenance("h1", as_shown(plan)))
        now = await places(lab)
        otherwise = [step.vm for step in plan.steps if step.destination == shut]
        assert shut not in now.values()
        assert {step.vm: now[step.vm] for step in plan.steps if step.vm not in otherwise} == {
            step.vm: step.destination for step in plan.steps if step.vm not in otherwise
        }
        assert task.notes == tuple(
            f"{vm} goes to {now[vm]} instead of {shut}: {shut} takes no VMs now" for vm in otherwise
        )
        logged = [line.text for line in await lab.manager.task_log(task.id)]
        assert all(any(note in text for text in logged) for note in task.notes)


async def test_an_evacuation_goes_on_as_planned_when_the_manager_is_killed() -> None:
    async with six_on_h1("evkill") as lab:
        plan = await lab.manager.check_maintenance("h1", MaintenanceRequest(move_disks=True))
        task = await held_in_the_middle(lab, as_shown(plan, move_disks=True))
        [pid] = [pid for pid in lab.world.pids() if tuple(processes.argv(pid)[1:4]) == MANAGER]
        os.kill(pid, signal.SIGKILL)
        await lab.ready()  # it is the registry too: without it the moves that run would fail, and be tried again
        lab.host("h1").disarm(HELD)
        task = await ended(lab, task)
        assert (task.state, task.vm_state, task.notes) == (TaskState.SUCCEEDED, "6 moved", ()), task.problem
        assert {step.vm: step.destination for step in plan.steps} == await places(lab)
        assert {step.vm: step.kind for step in plan.steps} == await kinds(lab, task)


async def test_a_cancelled_evacuation_begins_nothing_more_and_its_tasks_say_where_the_vms_are() -> None:
    async with six_on_h1("evstop") as lab:
        task = await held_in_the_middle(lab, MaintenanceRequest(move_disks=True, at_once=2))
        cancelling = asyncio.create_task(lab.manager.cancel_task(task.id))
        await asyncio.sleep(0.5)
        lab.host("h1").disarm(HELD)
        await cancelling
        task = await ended(lab, task)
        assert task.state is TaskState.CANCELLED
        assert (await lab.manager.host("h1")).maintenance is None
        children = [it for it in await lab.manager.tasks() if it.parent == task.id]
        assert 1 <= len(children) <= 2
        assert all(it.state in (TaskState.CANCELLED, TaskState.SUCCEEDED) for it in children)
        moved = {it.vm: it.destination for it in children if it.state is TaskState.SUCCEEDED}
        assert await places(lab) == dict.fromkeys(PLACES, "h1") | moved
        assert task.vm_state == f"{len(moved)} moved"
        await asyncio.sleep(3)
        assert len([it for it in await lab.manager.tasks() if it.parent == task.id]) == len(children)


async def test_a_balance_run_does_what_its_plan_said() -> None:
    async with six_on_h1("bal") as lab:
        plan = await lab.manager.balance_plan()
        moved = {it.vm: it.destination for it in plan.recommendations}
        assert plan.imbalance > 0.2
        assert moved and set(moved) <= {"a", "b", "c"}, "disks stay where they are"
        ids = {it.id for it in plan.recommendations}
        task = await ended(lab, await lab.manager.apply_balance(tuple(sorted(ids))))
        assert task.state is TaskState.SUCCEEDED, task.problem
        assert await places(lab) == dict.fromkeys(PLACES, "h1") | moved
        assert set((await kinds(lab, task)).values()) == {MoveKind.HOST}
        assert {it.recommendation.id for it in await lab.manager.balance_history()} == ids

        async def is_as_planned() -> bool:
            return abs((await lab.manager.balance_status()).imbalance - plan.imbalance_after) < 0.05

        await comes_true(is_as_planned)  # once what the moves themselves take of the hosts is over
        again = await lab.manager.balance_plan()
        assert not {it.vm for it in again.recommendations} & set(moved), "they rest"
