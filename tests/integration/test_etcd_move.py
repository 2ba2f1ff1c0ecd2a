"""A writing guest moves while etcd keeps the registry, and etcd goes away in the middle of a hand-over."""

import pytest

from kvmove.lab.folders import WORLD
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.model.task import Task, TaskState
from kvmove.units import MIB
from tests.support.eventually import eventually
from tests.support.moving_guest import World, world

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

VM = LedgerVm(name="etcd", memory=160 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=16, rate=300)


@pytest.mark.full
async def test_the_vm_moves_and_a_hand_over_waits_for_etcd() -> None:
    async with world(VM, "etcd", registry="etcd") as there:
        await there.move("h2")
        await there.runs_on(there.lab.host("h2"))
        ended = await hand_over_without_etcd(there)
        here, other = ("h1", "h2") if ended.state is TaskState.SUCCEEDED else ("h2", "h1")
        assert ended.state in (TaskState.SUCCEEDED, TaskState.FAILED)
        await there.runs_on(there.lab.host(here))
        await there.move(other)
        await there.runs_on(there.lab.host(other))
        assert not list((there.lab.folders.host(WORLD) / "manager").glob("registry.db*"))
        await there.judge(other)


async def hand_over_without_etcd(there: World) -> Task:
    """Back to h1; etcd is gone from the source's word on, until the source says that all wait for it.

    By then the source has given up waiting for the destination's answer. Its abort and the destination's commit race
    once etcd is back; either may win.
    """
    source = there.lab.host("h2")
    source.arm("source-yielded", "hold")
    task = await there.lab.manager.start_move(there.request("h1"))
    await eventually(lambda: source.is_held("source-yielded"))
    await there.lab.hold(WORLD, "etcd")
    source.disarm("source-yielded")
    waited = False
    async for seen in there.lab.manager.watch_task(task.id):
        if not waited and "the registry decides" in str(seen.vm_state):
            assert not seen.ended_state, seen
            waited = True
            await there.lab.release(WORLD, "etcd")
    assert waited
    return await there.lab.manager.task(task.id)
