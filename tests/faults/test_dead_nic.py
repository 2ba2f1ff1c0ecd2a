"""A NIC pair is dead when memory begins to be sent: its channels begin over another."""

import pytest

from tests.support.fault_judge import MOVES, judge
from tests.support.fault_lab import BULK, FaultLab

pytestmark = [pytest.mark.lab, pytest.mark.full, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]


@pytest.mark.parametrize("at_the_source", [True, False], ids=["link", "silent"])
async def test_the_first_nic_is_dead_when_memory_begins(faults: FaultLab, *, at_the_source: bool) -> None:
    """The source sees its own NIC's link; of the destination's it hears nothing."""
    async with faults.move("--verify") as move:
        await faults.until(move, BULK)
        host = move.source if at_the_source else move.destination
        await host.nic_down("mig0")  # main and a multifd channel would begin on it
        try:
            await move.process.wait()
        finally:
            await host.nic_up("mig0")
    await judge(faults, move, MOVES)
