"""`kvmove task cancel` at every phase: before the source's word the VM stays and nothing is left; after it, it is told
that it is too late, and the VM moves."""

import pytest

from kvmove.errors import Busy
from kvmove.model.task import TaskState
from tests.support.fault_judge import MOVES, judge, stays
from tests.support.fault_lab import BULK, PRE_COPY, PRE_SWITCHOVER, FaultLab

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

full = pytest.mark.full


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("source-prepared", marks=full),
        pytest.param("source-mirroring", marks=full),
        pytest.param(BULK, marks=full),
        pytest.param(PRE_COPY, marks=full),
        PRE_SWITCHOVER,
        pytest.param("source-synced", marks=full),
        pytest.param("source-memory-sent", marks=full),
    ],
)
async def test_a_cancelled_move_leaves_the_vm_at_the_source(faults: FaultLab, moment: str) -> None:
    async with faults.move(hold=() if moment == BULK else (moment,)) as move:
        await faults.until(move, moment)
        assert await faults.cancel(move) == 0
        faults.let_go(move)
    await judge(faults, move, stays("cancelled", TaskState.CANCELLED))


@pytest.mark.parametrize("moment", ["source-yielded", "destination-committed", "source-cleaning-up"])
@full
async def test_after_its_word_it_is_too_late_to_cancel(faults: FaultLab, moment: str) -> None:
    async with faults.move(hold=(moment,)) as move:
        await faults.until(move, moment)
        assert await faults.cancel(move) == Busy.exit_code
        faults.let_go(move)
    await judge(faults, move, MOVES)
