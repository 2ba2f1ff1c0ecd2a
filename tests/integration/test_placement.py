"""Maintenance and balancing on a lab of four hosts: what is done is what was planned."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from kvmove.errors import CheckFailed, NotFound
from kvmove.lab.lab import Lab
from kvmove.lab.spec import LOCAL, SHARED, LabSpec
from kvmove.model.move import MoveKind, MoveRequest
from kvmove.model.placement import BalancePlan, MaintenanceRequest, MaintenanceState
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import DiskDefinition, VmDefinition, VmState
from kvmove.units import GIB, MIB
from tests.support.labs import SMALL, lab_name, tidy_lab

pytestmark = [pytest.mark.lab, pytest.mark.full, pytest.mark.timeout(600)]

PLACES = {"a": SHARED, "b": SHARED, "c": SHARED, "d": LOCAL, "e": LOCAL, "f": LOCAL}


@asynccontextmanager
async def six_on_h1(purpose: str) -> AsyncIterator[Lab]:
    """Four hosts that count as having 1 GiB, and six running VMs without an operating system on the first."""
    spec = LabSpec(
        name=lab_name(purpose), hosts=("h1", "h2", "h3", "h4"), nics=(0,), datastore=SMALL, shared=True, host_memory=GIB
    )  # fmt: skip
    async with tidy_lab(spec) as lab:
        for name, datastore in PLACES.items():
            disk = DiskDefinition(name="root", datastore=datastore, size=16 * MIB)
            await lab.manager.define_vm("h1", VmDefinition(name=name, uuid=uuid4(), memory=64 * MIB, disks=(disk,)))
            await lab.manager.start_vm(name)
        yield lab


async def ended(lab: Lab, task: Task) -> Task:
    while not task.ended_state:
        async for state in lab.manager.watch_task(task.id, task.revision):
            task = state
    return task


async def places(lab: Lab) -> dict[str, str]:
    seen = await lab.manager.vms()
    assert all(vm.state is VmState.RUNNING for vm in seen)
    return {vm.definition.name: vm.host for vm in seen}


async def kinds(lab: Lab, parent: Task) -> dict[str, MoveKind]:
    tasks = [task for task in await lab.manager.tasks() if task.parent == parent.id]
    assert all(task.state is TaskState.SUCCEEDED for task in tasks)
    return {task.vm: task.plan.kind for task in tasks if task.plan is not None}


async def test_an_evacuation_does_what_its_plan_said() -> None:
    async with six_on_h1("evac") as lab:
        careful = await lab.manager.check_maintenance("h1", MaintenanceRequest())
        assert {step.vm for step in careful.steps} == {"a", "b", "c"}
        assert {it.vm for it in careful.remains} == {"d", "e", "f"}
        assert all("--move-disks" in it.why for it in careful.remains)
        request = MaintenanceRequest(move_disks=True)
        plan = await lab.manager.check_maintenance("h1", request)
        task = await ended(lab, await lab.manager.enter_maintenance("h1", request))
        assert (task.state, task.vm_state) == (TaskState.SUCCEEDED, "6 moved"), task.problem
        assert {step.vm: step.destination for step in plan.steps} == await places(lab)
        assert {step.vm: step.kind for step in plan.steps} == await kinds(lab, task)
        mark = (await lab.manager.host("h1")).maintenance
        assert mark is not None and (mark.state, mark.remains) == (MaintenanceState.ON, ())
        with pytest.raises(CheckFailed, match="h1 is in maintenance"):
            await lab.manager.start_move(MoveRequest(vm="a", host="h1"))
        assert (await lab.manager.exit_maintenance("h1")).maintenance is None
        checked = await lab.manager.check_move(MoveRequest(vm="a", host="auto"))
        assert checked.plan.destination.name == "h1", "the one that has nothing to do"


async def test_a_balance_run_does_what_its_plan_said() -> None:
    async with six_on_h1("bal") as lab:
        before = await lab.manager.balance_plan()
        assert before.imbalance > 0.10
        plan, task = await apply(lab)
        task = await ended(lab, task)
        assert task.state is TaskState.SUCCEEDED, task.problem
        moved = {it.vm: it.destination for it in plan.recommendations}
        assert moved and set(moved) <= {"a", "b", "c"}, "disks stay where they are"
        now = await places(lab)
        assert {vm: now[vm] for vm in moved} == moved
        assert {vm for vm, host in now.items() if host == "h1"} == set(PLACES) - set(moved)
        assert set((await kinds(lab, task)).values()) == {MoveKind.HOST}
        assert {it.recommendation.id for it in await lab.manager.balance_history()} == ids(plan)
        again = await lab.manager.balance_plan()
        assert not {it.vm for it in again.recommendations} & set(moved), "they rest"


async def apply(lab: Lab) -> tuple[BalancePlan, Task]:
    """Apply a plan as it was shown. Loads change: one that no longer stands is refused, and shown anew."""
    while True:
        plan = await lab.manager.balance_plan()
        try:
            return plan, await lab.manager.apply_balance(tuple(sorted(ids(plan))))
        except NotFound:
            await asyncio.sleep(1)


def ids(plan: BalancePlan) -> set[str]:
    return {it.id for it in plan.recommendations}
