"""Moves over several migration NICs: one dies without a word and comes back, one is slower than the other.

The guest writes all the time, and its ledger is judged in the end.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from kvmove.lab import ledger_vm
from kvmove.lab.guest.image import build
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.moving import follow
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.model.move import MoveProgress, NicProgress, NicState, Phase
from kvmove.model.task import Task, TaskState
from kvmove.mover.move_terms import MoverSettings
from kvmove.units import GIB, MIB
from tests.support.audience import Quiet
from tests.support.labs import lab_name, tidy_lab
from tests.support.moving_guest import GUEST, World

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

VM = LedgerVm(name="many", memory=160 * MIB, disk=640 * MIB, data=192 * MIB, ram_mib=16, rate=200)
QUICK, SLOW = 12_000_000, 3_000_000


@asynccontextmanager
async def world_of(purpose: str, rates: tuple[int, ...], vm: LedgerVm = VM) -> AsyncIterator[World]:
    """Two hosts with a NIC of each rate (bytes/s), and the guest on h1."""
    image = await asyncio.to_thread(build, GUEST)
    async with tidy_lab(LabSpec(name=lab_name(purpose), nics=rates, datastore=DatastoreSpec(size=GIB))) as lab:
        await ledger_vm.define(lab, vm, image, "h1")
        await ledger_vm.start(lab, vm)
        yield World(lab, vm, image)


async def until(there: World, task: Task, holds: Callable[[MoveProgress], bool]) -> MoveProgress:
    """The first progress of which it holds."""
    async for newer in there.lab.manager.watch_task(task.id):
        assert not newer.ended_state, newer.problem
        if newer.progress is not None and holds(newer.progress):
            return newer.progress
    raise AssertionError("the task is watched no more")


def nic(progress: MoveProgress, name: str) -> NicProgress:
    return next((it for it in progress.nics if it.nic == name), NicProgress(nic=name))


def copied(progress: MoveProgress) -> int:
    return progress.disks[0].copied if progress.disks else 0


async def test_a_nic_that_answers_nothing_is_left_and_taken_up_again() -> None:
    async with world_of("nicdown", (QUICK, QUICK)) as there:
        manager, far = there.lab.manager, there.lab.host("h2")
        task = await manager.start_move(there.request("h2", verify=True))
        await until(there, task, lambda it: copied(it) > 24 * MIB)
        await far.nic_down("mig1")
        fell = time.monotonic()
        left = await until(there, task, lambda it: nic(it, "mig1").state is NicState.LEFT)
        assert left.phase is Phase.COPYING_DISKS
        assert "without an answer" in nic(left, "mig1").reason
        assert nic(left, "mig1").streams == 0
        log.info("left after %.1f s: %s", time.monotonic() - fell, nic(left, "mig1").reason)
        gone_on = await until(there, task, lambda it: copied(it) > copied(left) + 16 * MIB)
        assert nic(gone_on, "mig1").sent == nic(left, "mig1").sent
        await far.nic_up("mig1")
        again = await until(there, task, lambda it: nic(it, "mig1").sent > nic(left, "mig1").sent + 4 * MIB)
        assert (nic(again, "mig1").state, nic(again, "mig1").times_left) == (NicState.UP, 1)
        report = (await follow(there.lab, task, Quiet())).report
        assert report is not None
        said = [change.what for change in report.changes if "mig1" in change.what]
        assert [what.split(":")[0].split(" again")[0] for what in said] == ["NIC mig1 left", "NIC mig1 taken up"]
        assert report.disks[0].hold_worst_ms < 1000 * MoverSettings().budget + 1000
        assert {it.nic for it in report.nics if it.sent and it.average} == {"mig0", "mig1"}
        log.info("%s; the longest hold: %.0f ms; %s", said, report.disks[0].hold_worst_ms, report.nics)
        await there.judge("h2")


@pytest.mark.full
async def test_a_nic_of_the_source_that_is_down_is_left_and_taken_up_again() -> None:
    async with world_of("nicown", (QUICK, QUICK)) as there:
        manager, near = there.lab.manager, there.lab.host("h1")
        task = await manager.start_move(there.request("h2"))
        await until(there, task, lambda it: copied(it) > 24 * MIB)
        await near.nic_down("mig0")
        left = await until(there, task, lambda it: nic(it, "mig0").state is NicState.LEFT)
        log.info("left: %s", nic(left, "mig0").reason)
        await until(there, task, lambda it: copied(it) > copied(left) + 16 * MIB)
        await near.nic_up("mig0")
        await until(there, task, lambda it: nic(it, "mig0").sent > nic(left, "mig0").sent + 4 * MIB)
        ended = await follow(there.lab, task, Quiet())
        assert ended.state is TaskState.SUCCEEDED
        await there.judge("h2")


async def shares_of(there: World, task: Task) -> dict[str, int]:
    """What each NIC sent of the disks' copy, between its beginning and its end; printed with the times."""
    begun = await until(there, task, lambda it: copied(it) > 16 * MIB)
    last = begun
    async for newer in there.lab.manager.watch_task(task.id):
        if (
            newer.progress is None
            or newer.progress.phase is not Phase.COPYING_DISKS
            or copied(newer.progress) > 170 * MIB
        ):
            break
        last = newer.progress
    seconds = last.elapsed_seconds - begun.elapsed_seconds
    sent = {it.nic: nic(last, it.nic).sent - it.sent for it in begun.nics}
    assert seconds > 0
    log.info("%.1f s: %s", seconds, {name: f"{size / seconds / 1e6:.1f} MB/s" for name, size in sent.items()})
    return sent


@pytest.mark.full
@pytest.mark.parametrize("rates", [(4 * QUICK, QUICK), (QUICK, SLOW, SLOW, SLOW)], ids=["two", "four"])
async def test_bytes_divide_as_the_rates_do(rates: tuple[int, ...]) -> None:
    async with world_of(f"nicrate{len(rates)}", rates) as there:
        task = await there.lab.manager.start_move(there.request("h2"))
        sent = await shares_of(there, task)
        for number, rate in enumerate(rates[1:], 1):
            wanted = rates[0] / rate
            assert 0.5 * wanted < sent["mig0"] / sent[f"mig{number}"] < 2 * wanted
        await follow(there.lab, task, Quiet())
        await there.judge("h2")


@pytest.mark.full
async def test_a_copy_does_not_wait_for_a_nic_that_slows_to_nearly_nothing() -> None:
    async with world_of("nicslow", (QUICK, QUICK)) as there:
        manager, near = there.lab.manager, there.lab.host("h1")
        task = await manager.start_move(there.request("h2", switchover="manual"))
        begun = await until(there, task, lambda it: copied(it) > 24 * MIB)
        await near.set_rate("mig1", QUICK // 100)
        done = await until(there, task, lambda it: it.waits_for_word)
        seconds, rest = done.elapsed_seconds - begun.elapsed_seconds, VM.data - copied(begun)
        log.info("%.1f s for %.0f MiB over one NIC; %s", seconds, rest / MIB, done.nics)
        assert nic(done, "mig1").times_left >= 1, "what it still had went over the other in the end"
        await near.set_rate("mig1", QUICK)
        await manager.switch_task_over(task.id)
        ended = await follow(there.lab, task, Quiet())
        assert ended.report is not None
        log.info("%s %s", ended.report.changes, ended.report.disks[0].hold_worst_ms)
        assert ended.report.disks[0].hold_worst_ms < 1000 * MoverSettings().budget + 1000
        await there.judge("h2")
