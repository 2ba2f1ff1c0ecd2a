"""The destination is out of reach in the middle of the copy of the disks, over all NICs: the guest goes on, the copy waits, then
goes on where it was."""

import asyncio

import pytest

from kvmove.model.task import Task
from tests.support.fault_judge import MOVES, judge
from tests.support.fault_lab import BULK, FaultLab, Move

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

NICS = ("mig0", "mig1")
SHARE = 0.05
"""Of the disk: so much more than what the guest changed may be sent again."""


async def outage(faults: FaultLab, move: Move, seconds: float) -> Task:
    """Cut all streams, keep all NICs down for so long, and return the task as it was just before they come back."""
    await move.source.cut_streams()
    for nic in NICS:
        await move.source.nic_down(nic)
    await asyncio.sleep(seconds)
    task = await faults.lab.manager.task(move.task_id)
    for nic in NICS:
        await move.source.nic_up(nic)
    return task


async def longest_gap(faults: FaultLab) -> float:
    raise NotImplementedError


@pytest.mark.parametrize("seconds", [8.0, pytest.param(60.0, marks=pytest.mark.full)])
async def test_all_nics_are_down_and_the_copy_goes_on_where_it_was(faults: FaultLab, seconds: float) -> None:
    async with faults.move("--verify") as move:
        await faults.until(move, BULK)
        before = await faults.lab.manager.task(move.task_id)
        during = await outage(faults, move, seconds)
    await judge(faults, move, MOVES)
    print(during.progress.message)
    after = await faults.lab.manager.task(move.task_id)
    print(after.report.disks, after.report.changes)


async def test_the_destination_agent_is_restarted_and_the_copy_goes_on(faults: FaultLab) -> None:
    async with faults.move("--verify") as move:
        await faults.until(move, BULK)
        move.destination.kill_agent()
    after = await faults.lab.manager.task(move.task_id)
    print(after.report, after.problem)
    await judge(faults, move, MOVES)


async def test_the_source_agent_is_restarted_and_the_copy_goes_on(faults: FaultLab) -> None:
    async with faults.move("--verify") as move:
        await faults.until(move, BULK)
        move.source.kill_agent()
    after = await faults.lab.manager.task(move.task_id)
    print(after.report, after.problem)
    await judge(faults, move, MOVES)
