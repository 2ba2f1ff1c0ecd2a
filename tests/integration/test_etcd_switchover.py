"""etcd loses its majority, or its leader, around a switchover: the guest runs on, the move waits, and ends well."""

import asyncio

import pytest

from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.spec import SHARED
from kvmove.model.move import Phase
from kvmove.model.task import TaskState
from kvmove.units import MIB
from tests.support.etcd_world import bring_back, end_quorum, ended, etcd_world, kill_leader, until, writes
from tests.support.eventually import eventually
from tests.support.vcpu_watch import VcpuWatch

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

VM = LedgerVm(
    name="gate", memory=160 * MIB, disk=128 * MIB, data=32 * MIB, ram_mib=16, rate=300, ram_rate=2000, datastore=SHARED
)
SLOW = 6_000_000
"""Bytes/s: the memory takes seconds."""


async def test_the_guest_runs_while_its_switchover_waits_for_a_majority() -> None:
    """The majority goes while memory is sent, so just before the pause."""
    async with etcd_world(VM, "gate") as there:
        source, destination = there.lab.host("h1"), there.lab.host("h2")
        await source.set_rate("mig0", SLOW)
        task = await there.lab.manager.start_move(there.request("h2"))
        await until(there.lab, task, Phase.COPYING_MEMORY)
        await end_quorum(there.lab)
        seen = await until(there.lab, task, "waiting for the registry before the guest is paused")
        await source.set_rate("mig0", 0)
        assert (seen.vm_state, seen.state) == ("running on h1", TaskState.RUNNING)
        written = writes(there)
        await eventually(lambda: writes(there) > written + 1500)
        seen = await there.lab.manager.task(task.id)
        assert seen.progress is not None
        assert (seen.vm_state, seen.progress.phase) == ("running on h1", Phase.COPYING_MEMORY), seen
        await bring_back(there.lab)
        seen = await ended(there.lab, task)
        assert seen.state is TaskState.SUCCEEDED, seen
        await there.runs_on(destination)
        await there.judge("h2")


@pytest.mark.full
@pytest.mark.parametrize("point", ["source-pre-switchover", "source-yielded", "destination-committed"])
async def test_a_leader_that_dies_in_mid_switchover_harms_nobody(point: str) -> None:
    """At a point of the switchover where the guest stands still: it moves all the same, and runs at one place."""
    async with etcd_world(VM, "leader") as there:
        source, destination = there.lab.host("h1"), there.lab.host("h2")
        holder = source if point.startswith("source") else destination
        holder.arm(point, "hold")
        with VcpuWatch(source.qemu_pids()[VM.uuid], lambda: destination.qemu_pids().get(VM.uuid)) as vcpus:
            task = await there.lab.manager.start_move(there.request("h2"))
            await eventually(lambda: holder.is_held(point))
            await kill_leader(there.lab)
            holder.disarm(point)
            seen = await ended(there.lab, task)
            await asyncio.sleep(0.5)
        assert vcpus.both_ran_ns() == 0
        assert seen.state in (TaskState.SUCCEEDED, TaskState.FAILED), seen
        here = "h2" if seen.state is TaskState.SUCCEEDED else "h1"
        await there.runs_on(there.lab.host(here))
        other = "h1" if here == "h2" else "h2"
        await there.move(other)
        await there.runs_on(there.lab.host(other))
        await there.judge(other)
