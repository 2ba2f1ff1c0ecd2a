"""Agents and QEMUs die, and streams are cut, at three moments before the source gives its word: the VM runs on at the
source, or the move repairs itself; nothing is lost, nothing is left, and the task says what happened.

While disks are copied the move outlives either agent: see `test_outages`."""

import pytest

from tests.support.fault_judge import MOVES, judge, stays
from tests.support.fault_lab import BULK, PRE_COPY, PRE_SWITCHOVER, VM, FaultLab

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

MOMENTS = pytest.mark.parametrize("moment", [BULK, PRE_COPY, PRE_SWITCHOVER])
LATER = pytest.mark.parametrize("moment", [PRE_COPY, PRE_SWITCHOVER])


def holds(moment: str) -> tuple[str, ...]:
    return () if moment == BULK else (moment,)


async def test_a_move_without_a_fault_passes_the_judge(faults: FaultLab) -> None:
    async with faults.move("--verify") as move:
        pass
    await judge(faults, move, MOVES)


@LATER
async def test_the_source_agent_dies(faults: FaultLab, moment: str) -> None:
    async with faults.move(hold=holds(moment)) as move:
        await faults.until(move, moment)
        move.source.kill_agent()
        faults.let_go(move)
    await judge(faults, move, stays("agent of the source was restarted"))


@LATER
async def test_the_destination_agent_dies(faults: FaultLab, moment: str) -> None:
    async with faults.move(hold=holds(moment)) as move:
        await faults.until(move, moment)
        move.destination.kill_agent()
        faults.let_go(move)
    await judge(faults, move, stays("destination"))


@MOMENTS
async def test_the_destination_qemu_dies(faults: FaultLab, moment: str) -> None:
    async with faults.move(hold=holds(moment)) as move:
        await faults.until(move, moment)
        move.destination.kill_qemu(VM.uuid)
        faults.let_go(move)
    await judge(faults, move, stays("destination.s QEMU"))


async def test_all_streams_are_cut_in_the_bulk_copy_and_the_move_repairs_itself(faults: FaultLab) -> None:
    async with faults.move("--verify") as move:
        await faults.until(move, BULK)
        assert await move.source.cut_streams() > 0
    await judge(faults, move, MOVES)


@pytest.mark.parametrize("moment", [PRE_COPY, PRE_SWITCHOVER])
async def test_all_streams_are_cut_with_the_memory_on_its_way_and_qemu_never_notices(
    faults: FaultLab, moment: str
) -> None:
    async with faults.move("--verify", hold=holds(moment)) as move:
        await faults.until(move, moment)
        assert await move.source.cut_streams() > 0
        faults.let_go(move)
    await judge(faults, move, MOVES)


async def test_a_nic_goes_down_with_the_memory_on_its_way_and_the_other_carries_it(faults: FaultLab) -> None:
    async with faults.move("--verify", hold=(PRE_COPY,)) as move:
        await faults.until(move, PRE_COPY)
        await move.source.nic_down("mig0")  # main and a multifd channel are on it
        try:
            await faults.until_nic_is_left(move, "mig0")
            faults.let_go(move)
            await move.process.wait()
        finally:
            await move.source.nic_up("mig0")
    await judge(faults, move, MOVES)
