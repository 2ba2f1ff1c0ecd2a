"""One watched move of a ledger guest in a lab: asked for like any operator would, looked at from outside.

It judges nothing; demo, soak and compare do, from what is gathered here.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from kvmove.errors import CheckFailed, Unreachable, from_problem
from kvmove.lab import observation
from kvmove.lab.guest.cpu_sampler import CpuSample, CpuSampler
from kvmove.lab.guest.recorder_log import now_ns
from kvmove.lab.lab import Lab
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.observation import Instants
from kvmove.model.move import MoveCheck, MoveRequest
from kvmove.model.task import Task, TaskState

LOOK_SECONDS = 0.05


class Audience(Protocol):
    """Who looks on: told in words, shown the plan, and shown the task as it goes."""

    def say(self, text: str) -> None: ...
    def plan(self, checked: MoveCheck) -> None: ...
    def watching(self, task: Task) -> AbstractContextManager[Callable[[Task], None]]: ...


@dataclass(frozen=True)
class WatchedMove:
    """A move that completed: its task, its instants, bytes per migration NIC of the source, CPU time of both QEMUs."""

    task: Task
    at: Instants
    sent: Mapping[str, int]
    samples: Mapping[str, Sequence[CpuSample]]

    @property
    def seconds(self) -> float:
        """From the request to the end, on the outside clock."""
        return round((self.at.ended - self.at.asked) / 1e9, 3)

    @property
    def digests_equal(self) -> bool:
        """Whether every disk was compared at the switchover and found equal."""
        disks = self.task.report.disks if self.task.report else ()
        return bool(disks) and all(d.source_digest and d.source_digest == d.destination_digest for d in disks)


async def watched_move(
    lab: Lab,
    vm: LedgerVm,
    request: MoveRequest,
    audience: Audience,
    settle: float = observation.SETTLE_SECONDS,
    sample: bool = True,
) -> WatchedMove:
    """Watch the guest for `settle` seconds, move it, and watch it as long again.

    Without `sample` no CPU time is sampled: it costs some percent of a core, which a measurement of speed would feel.

    :raise KvmoveError: the move did not succeed; the error is the task's own.
    """
    source = lab.host((await lab.manager.vm(str(vm.uuid))).host)
    audience.plan(await lab.manager.check_move(request))
    watched = now_ns()
    await asyncio.sleep(settle)
    counters = await source.nic_counters()
    async with _sampling(source, lab.host(request.host or source.name), vm.uuid, wanted=sample) as samples:
        asked = now_ns()
        task = await follow(lab, await lab.manager.start_move(request), audience)
        ended = now_ns()
        sent = observation.sent_between(counters, await source.nic_counters())
        await asyncio.sleep(settle)
    at = Instants(watched, asked, ended, now_ns())
    await asyncio.sleep(observation.SLACK / 1e9)
    return WatchedMove(task, at, sent, samples)


@asynccontextmanager
async def _sampling(
    source: LabHost, destination: LabHost, vm: UUID, *, wanted: bool
) -> AsyncIterator[Mapping[str, Sequence[CpuSample]]]:
    """Sample the vCPUs of both QEMUs, the destination's from the moment it is there."""
    if not wanted:
        yield {}
        return
    with CpuSampler({"source": source.qemu_pids()[vm]}) as sampler:
        arrival = asyncio.create_task(_sample_arrival(sampler, destination, vm))
        try:
            yield sampler.samples
        finally:
            arrival.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await arrival


async def follow(lab: Lab, task: Task, audience: Audience) -> Task:
    """Show the task until its end and return it as it is then.

    :raise KvmoveError: it did not succeed; the error is the task's own.
    """
    with audience.watching(task) as show:
        while not task.ended_state:
            with contextlib.suppress(Unreachable):
                async for newer in lab.manager.watch_task(task.id, task.revision):
                    task = newer
                    show(task)
            await asyncio.sleep(0 if task.ended_state else 0.5)
    if task.state is not TaskState.SUCCEEDED:
        error = from_problem(task.problem or {})
        error.vm_state = error.vm_state or task.vm_state
        raise error
    return task


async def _sample_arrival(sampler: CpuSampler, destination: LabHost, vm: UUID) -> None:
    """Sample the destination's QEMU from the moment it has vCPU threads."""
    while True:
        pid = (await asyncio.to_thread(destination.qemu_pids)).get(vm)
        if pid is not None:
            with contextlib.suppress(CheckFailed):
                sampler.add("destination", pid)
                return
        await asyncio.sleep(LOOK_SECONDS)
