"""The VM's own QEMU dies while it moves: nobody can save it, but its disks are whole, the task says so, and it can be
started again where it belongs."""

import pytest

from kvmove.model.task import TaskState
from tests.support.fault_judge import Expected, Judge
from tests.support.fault_lab import BULK, PRE_SWITCHOVER, FaultLab

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240), pytest.mark.full]


@pytest.mark.parametrize("moment", [BULK, PRE_SWITCHOVER])
async def test_the_source_qemu_dies(faults: FaultLab, moment: str) -> None:
    async with faults.move(hold=() if moment == BULK else (moment,)) as move:
        await faults.until(move, moment)
        await faults.kill_qemu(move.source)
        faults.let_go(move)
    judge = Judge(faults, move, Expected(stays=True, states=(TaskState.FAILED,), says="QEMU of VM victim ended"))
    await judge.lost()


async def test_the_destination_qemu_dies_once_the_guest_may_have_run(faults: FaultLab) -> None:
    async with faults.move(hold=("destination-cont-intent",)) as move:
        await faults.until(move, "destination-cont-intent")
        await faults.kill_qemu(move.destination)
        faults.let_go(move)
    judge = Judge(faults, move, Expected(stays=False, states=(TaskState.FAILED,), says="its QEMU there ended"))
    await judge.lost()
