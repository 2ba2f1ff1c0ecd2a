"""A moving guest whose registry is an etcd of three members in the lab's world; members can be taken away."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kvmove.lab import ledger_vm, processes
from kvmove.lab.folders import WORLD
from kvmove.lab.guest.image import build
from kvmove.lab.guest.recorder_log import RecorderLog
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.preparation import etcd_endpoint, etcd_service, recorder_folder
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.model.move import Phase
from kvmove.model.task import Task
from kvmove.units import GIB
from tests.support.labs import lab_name, tidy_lab
from tests.support.moving_guest import GUEST, World

MEMBERS = 3
HANG = 120.0
_ASK_STATUS = """
import json, sys, urllib.request
request = urllib.request.Request(sys.argv[1] + "/v3/maintenance/status", b"{}")
print(urllib.request.urlopen(request, timeout=5).read().decode())
"""


@asynccontextmanager
async def etcd_world(vm: LedgerVm, purpose: str) -> AsyncIterator[World]:
    """Two hosts that share a datastore; nothing is left of it."""
    image = await asyncio.to_thread(build, GUEST)
    spec = LabSpec(
        name=lab_name(purpose), nics=(0,), datastore=DatastoreSpec(size=GIB), shared=True, registry="etcd",
        etcd_members=MEMBERS,
    )  # fmt: skip
    async with tidy_lab(spec) as lab:
        await ledger_vm.define(lab, vm, image, "h1")
        await ledger_vm.start(lab, vm)
        yield World(lab, vm, image)


async def end_quorum(lab: Lab) -> None:
    """Two of the three members are gone until `bring_back`."""
    for number in (0, 1):
        await lab.hold(WORLD, etcd_service(number))


async def bring_back(lab: Lab) -> None:
    for number in (0, 1):
        await lab.release(WORLD, etcd_service(number))


async def kill_leader(lab: Lab) -> None:
    """SIGKILL; the lab starts it again."""
    for number in range(MEMBERS):
        said = await lab.world.exec([sys.executable, "-c", _ASK_STATUS, etcd_endpoint(number)])
        status = json.loads(said)
        if status["leader"] == status["header"]["member_id"]:
            name = etcd_service(number)
            (pid,) = (pid for pid in lab.world.pids() if f"--name={name}" in processes.argv(pid))
            os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError("etcd has no leader")


async def until(lab: Lab, task: Task, moment: str) -> Task:
    """The task once its message, or its phase, is that; it must not have ended before."""
    async with asyncio.timeout(HANG):
        async for seen in lab.manager.watch_task(task.id):
            assert not seen.ended_state, seen
            if seen.progress and (moment in seen.progress.message or seen.progress.phase is _phase(moment)):
                return seen
    raise AssertionError(f"{moment} never came")


def _phase(moment: str) -> Phase | None:
    return Phase(moment) if moment in list(Phase) else None


async def ended(lab: Lab, task: Task) -> Task:
    async with asyncio.timeout(HANG):
        async for seen in lab.manager.watch_task(task.id):
            if seen.ended_state:
                return seen
    raise AssertionError("the task never ended")


def writes(there: World) -> int:
    """How many writes the guest says that it has done."""
    log = RecorderLog(recorder_folder(there.lab.folders))
    log.refresh()
    health = log.health(there.vm.number)
    assert health is not None
    return health.writes
