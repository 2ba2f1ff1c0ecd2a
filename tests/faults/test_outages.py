"""The destination is out of reach in the middle of the copy of the disks, or an agent is restarted then: the guest goes
on, and so does the copy, from where it was."""

import asyncio

import pytest

from kvmove.lab.guest.recorder_log import now_ns
from kvmove.lab.guest.timeline import Window
from kvmove.lab.lab_host import LabHost
from kvmove.model.move import MoveReport
from kvmove.model.task import Task
from kvmove.mover.move_terms import MoverSettings
from kvmove.units import KIB, MIB
from tests.support.eventually import eventually
from tests.support.fault_judge import MOVES, judge, stays
from tests.support.fault_lab import BULK, PRE_COPY, VM, FaultLab, Move

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

NICS = ("mig0", "mig1")
PAGE = 4 * KIB
PREFILL = 128 * MIB
SHARE = 0.05
"""Of the disk: so much more than what the guest changed may be sent again."""
DEADLINE_SECONDS = MoverSettings().write_deadline
LITTLE_SECONDS = 0.5
"""No write of the guest waits longer than the deadline; it is written down a little later on a busy machine."""


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


async def report(faults: FaultLab, move: Move) -> MoveReport:
    found = (await faults.lab.manager.task(move.task_id)).report
    assert found is not None
    return found


def recopied_too_much(found: MoveReport) -> int:
    """Bytes beyond what the guest wrote and the share that is allowed."""
    disk = found.disks[0]
    changed = (disk.writes_forwarded + disk.writes_ignored) * PAGE
    return disk.recopied - changed - int(SHARE * disk.size)


@pytest.mark.parametrize(
    "seconds",
    [
        8.0,
        pytest.param(60.0, marks=pytest.mark.full),
        pytest.param(600.0, marks=[pytest.mark.full, pytest.mark.timeout(900)]),
    ],
)
async def test_all_nics_are_down_and_the_copy_goes_on_where_it_was(faults: FaultLab, seconds: float) -> None:
    async with faults.move("--verify") as move:
        await faults.until(move, BULK)
        began = now_ns()
        during = await outage(faults, move, seconds)
        ended = now_ns()
    await judge(faults, move, MOVES)
    assert during.progress is not None
    assert "no stream to" in during.progress.message
    found = await report(faults, move)
    assert any("open again after" in change.what for change in found.changes), found.changes
    assert recopied_too_much(found) <= 0, found.disks
    faults.log.refresh()
    gap = faults.log.longest_write_gap(VM.number, Window(began, ended))
    assert gap.seconds < DEADLINE_SECONDS + LITTLE_SECONDS, "the guest waited for the network"


async def test_the_destination_agent_is_restarted_and_the_copy_goes_on(faults: FaultLab) -> None:
    async with faults.move("--verify") as move:
        await faults.until(move, BULK)
        move.destination.kill_agent()
    await judge(faults, move, MOVES)
    found = await report(faults, move)
    assert any("was restarted; the copy goes on" in change.what for change in found.changes), found.changes
    assert recopied_too_much(found) <= 0, found.disks


async def test_the_source_agent_is_restarted_and_the_copy_goes_on(faults: FaultLab) -> None:
    """Its report counts from the restart on, and the whole copy would be more. What the guest changed meanwhile, of
    what had been copied, is sent too."""
    async with faults.move("--verify") as move:
        await faults.until(move, BULK)
        move.source.kill_agent()
    await judge(faults, move, MOVES)
    found = await report(faults, move)
    assert any("was restarted; the copy goes on" in change.what for change in found.changes), found.changes
    disk = found.disks[0]
    assert disk.data_sent - disk.recopied < PREFILL, found


async def down(faults: FaultLab, host: LabHost, seconds: float) -> None:
    """Stop the host's agent as systemd does, and start it again after so long: its ports refuse meanwhile."""
    await faults.lab.hold(host.name)
    await eventually(lambda: host.agent_pid() is None)
    await asyncio.sleep(seconds)
    await faults.lab.release(host.name)


@pytest.mark.parametrize("end", ["source", "destination"])
async def test_an_agent_is_stopped_for_a_while_and_the_copy_goes_on(faults: FaultLab, end: str) -> None:
    async with faults.move("--verify") as move:
        await faults.until(move, BULK)
        began = now_ns()
        await down(faults, move.source if end == "source" else move.destination, 8.0)
        ended = now_ns()
    await judge(faults, move, MOVES)
    found = await report(faults, move)
    assert any("was restarted; the copy goes on" in change.what for change in found.changes), found.changes
    disk = found.disks[0]
    assert disk.data_sent - disk.recopied < PREFILL or end == "destination", found
    faults.log.refresh()
    gap = faults.log.longest_write_gap(VM.number, Window(began, ended))
    assert gap.seconds < DEADLINE_SECONDS + LITTLE_SECONDS, "the guest waited for an agent"


async def test_an_agent_that_is_stopped_with_memory_on_its_way_undoes_the_move(faults: FaultLab) -> None:
    async with faults.move(hold=(PRE_COPY,)) as move:
        await faults.until(move, PRE_COPY)
        await down(faults, move.source, 0.0)
    await judge(faults, move, stays("was stopped while the VM moved"))


MIRRORING = "source-mirroring"
"""Mirrors are on; of a copy that was taken up too, then the record of what was written without them is read next."""


@pytest.mark.parametrize(
    "faults_of", ["kill kill", *(pytest.param(it, marks=pytest.mark.full) for it in ("stop kill", "manager kill"))]
)
async def test_one_restart_after_the_other_and_the_copy_goes_on(faults: FaultLab, faults_of: str) -> None:
    """The second comes while the copy is being taken up."""
    async with faults.move("--verify") as move:
        await faults.until(move, BULK)
        move.armed.append((move.source, MIRRORING))
        for fault in faults_of.split():
            move.source.arm(MIRRORING, "hold")
            if fault == "manager":
                faults.kill_manager()
            if fault == "stop":
                await down(faults, move.source, 0.0)
            else:
                move.source.kill_agent()
            await faults.until(move, MIRRORING)
            move.source.disarm(MIRRORING)
    await judge(faults, move, MOVES)
    found = await report(faults, move)
    assert any("was restarted; the copy goes on" in change.what for change in found.changes), found.changes


async def test_the_manager_is_restarted_in_the_copy_and_takes_the_task_up(faults: FaultLab) -> None:
    async with faults.move("--verify") as move:
        await faults.until(move, BULK)
        faults.kill_manager()
    await judge(faults, move, MOVES)


BETWEEN = "source-between-mirrors"
"""The background mirrors have ended, and the write-blocking ones have not begun."""


async def test_what_the_guest_writes_between_two_mirrors_arrives(faults: FaultLab) -> None:
    async with faults.move("--verify", hold=(BETWEEN,)) as move:
        await faults.until(move, BETWEEN)
        await asyncio.sleep(1.0)
        faults.let_go(move)
    await judge(faults, move, MOVES)
    found = await report(faults, move)
    assert any("wait for their mirrors" in change.what for change in found.changes), found.changes
    assert found.disks[0].recopied > 0, "nothing was written meanwhile"


async def test_the_source_agent_is_killed_between_two_mirrors(faults: FaultLab) -> None:
    async with faults.move("--verify", hold=(BETWEEN,)) as move:
        await faults.until(move, BETWEEN)
        faults.let_go(move)
        move.source.kill_agent()
    await judge(faults, move, MOVES)
