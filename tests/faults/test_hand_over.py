"""Agents die, and steps fail, in the hand-over itself: the registry decides, the guest runs on exactly one host, its
memory is whole, and the task says where it is."""

import pytest

from kvmove.model.task import TaskState
from tests.support.fault_judge import MOVES, Expected, judge, stays
from tests.support.fault_lab import PRE_SWITCHOVER, FaultLab

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

full = pytest.mark.full


@pytest.mark.parametrize(
    "point",
    [
        "source-yielded",
        pytest.param("destination-loaded", marks=full),
        "destination-committed",
        pytest.param("destination-cont-intent", marks=full),
        pytest.param("destination-running", marks=full),
        pytest.param("source-cleaning-up", marks=full),
    ],
)
async def test_the_source_agent_dies_after_its_word_and_the_vm_moves_all_the_same(faults: FaultLab, point: str) -> None:
    async with faults.move("--verify", hold=(point,)) as move:
        await faults.until(move, point)
        move.source.kill_agent()
        faults.let_go(move)
    await judge(faults, move, MOVES)


@pytest.mark.parametrize("point", ["source-synced", "source-memory-sent"])
@full
async def test_the_source_agent_dies_before_its_word(faults: FaultLab, point: str) -> None:
    async with faults.move(hold=(point,)) as move:
        await faults.until(move, point)
        move.source.kill_agent()
        faults.let_go(move)
    await judge(faults, move, stays("agent of the source was restarted"))


async def test_the_destination_agent_dies_before_the_commit_and_the_source_takes_its_word_back(
    faults: FaultLab,
) -> None:
    async with faults.move(hold=("destination-loaded",)) as move:
        await faults.until(move, "destination-loaded")
        move.destination.kill_agent()
        faults.let_go(move)
    await judge(faults, move, stays("could not take over"))


@pytest.mark.parametrize(
    "point",
    [
        "destination-committed",
        pytest.param("destination-cont-intent", marks=full),
        pytest.param("destination-running", marks=full),
    ],
)
async def test_the_destination_agent_dies_after_the_commit_and_finds_the_vm_again(faults: FaultLab, point: str) -> None:
    async with faults.move("--verify", hold=(point,)) as move:
        await faults.until(move, point)
        move.destination.kill_agent()
        faults.let_go(move)
    await judge(faults, move, MOVES)


@pytest.mark.parametrize("point", [pytest.param("destination-committed", marks=full), "destination-cont-intent"])
async def test_a_destination_that_cannot_let_the_guest_run_gives_it_back(faults: FaultLab, point: str) -> None:
    async with faults.move(fail=(point,)) as move:
        pass
    await judge(faults, move, stays("could not take over"))


@full
async def test_the_destination_qemu_dies_after_the_commit_and_the_vm_is_given_back(faults: FaultLab) -> None:
    async with faults.move(hold=("destination-committed",)) as move:
        await faults.until(move, "destination-committed")
        await faults.kill_qemu(move.destination)
        faults.let_go(move)
    await judge(faults, move, stays("could not take over"))


@full
async def test_a_word_that_cannot_be_kept_is_taken_back(faults: FaultLab) -> None:
    async with faults.move(fail=("source-yielded",)) as move:
        pass
    await judge(faults, move, stays("could not take over"))


@full
async def test_a_clean_up_that_fails_changes_nothing_about_the_outcome(faults: FaultLab) -> None:
    async with faults.move(hold=("source-cleaning-up",)) as move:
        await faults.until(move, "source-cleaning-up")
        move.source.arm("source-cleaning-up", "fail")
        await faults.until_gone(move.source, "source-cleaning-up")
        faults.let_go(move)
    await judge(faults, move, MOVES)


async def test_the_manager_dies_after_the_word_and_all_wait_for_its_registry(faults: FaultLab) -> None:
    async with faults.move(hold=("source-yielded",)) as move:
        await faults.until(move, "source-yielded")
        faults.kill_manager()
        faults.let_go(move)
    await judge(faults, move, MOVES)


@full
async def test_the_manager_dies_while_the_guest_stands_still_for_the_switchover(faults: FaultLab) -> None:
    """Its registry may be back in time, or not: then the guest goes on at the source."""
    async with faults.move(hold=(PRE_SWITCHOVER,)) as move:
        await faults.until(move, PRE_SWITCHOVER)
        faults.kill_manager()
        faults.let_go(move)
    stayed = faults.ends()[0] is move.source
    expected = Expected(stays=True, states=(TaskState.FAILED,), says="registry|manager") if stayed else MOVES
    await judge(faults, move, expected)
