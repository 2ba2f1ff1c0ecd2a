"""Maintenance of hosts: the mark that keeps VMs away, and the evacuation.

Invariants: the mark is on disk before the first VM moves, and stays over restarts of the manager until someone takes it
away; a restart goes on with an evacuation where it was, under the same task. Cancelling the task takes the mark away;
VMs that have moved stay where they are. A host that could not be emptied keeps its mark, and says what remains and why.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterable, Mapping

from kvmove.errors import Busy, Cancelled, CheckFailed, KvmoveError
from kvmove.manager.batch import Batch, Outcome
from kvmove.manager.follow import now
from kvmove.manager.inventory import Inventory
from kvmove.manager.moves import Moves
from kvmove.manager.placement_store import PlacementStore
from kvmove.manager.placing import Placing, Snapshot
from kvmove.manager.task_book import TaskBook
from kvmove.model.host import HostStatus
from kvmove.model.move import MoveRequest
from kvmove.model.placement import (
    EvacuationPlan,
    HostMaintenance,
    MaintenanceRequest,
    MaintenanceState,
    Remaining,
)
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import VmState
from kvmove.placement.evacuation import Shown, Terms, evacuate

_LOG = logging.getLogger(__name__)

KIND = "maintenance"
TRIES = 2
"""How often a VM's move is begun before it counts as remaining."""
_ARRIVING_SECONDS = 1.0


class Maintenance:
    """The hosts under maintenance. Lives on one event loop; `resume` first, `close` in the end."""

    def __init__(
        self, inventory: Inventory, moves: Moves, book: TaskBook, store: PlacementStore, placing: Placing
    ) -> None:
        self._inventory = inventory
        self._moves = moves
        self._book = book
        self._store = store
        self._placing = placing
        self._batches: dict[str, Batch] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._entering: set[str] = set()
        moves.cancel_by_kind[KIND] = self.cancel

    def resume(self) -> None:
        """Go on with what was under way when the manager ended."""
        for host, mark in self._store.kept.maintenance.items():
            if mark.state is MaintenanceState.ENTERING:
                self._go(host, mark)

    async def close(self) -> None:
        """Stop; the moves that run go on, and the next start goes on with the rest."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def plan(
        self, host: str, request: MaintenanceRequest, failed: Mapping[str, str] | None = None
    ) -> EvacuationPlan:
        """What `enter` would do now; nothing is changed. VMs in `failed` (with why) need another way than the steps of
        the request have for them.

        :raise NotFound: no such host.
        :raise Unreachable: it does not answer.
        :raise CheckFailed: it does not tell its load.
        """
        await self._inventory.refresh()
        if self._inventory.answering(host).load is None:
            raise CheckFailed(f"{host} does not tell its load", hint=f"bring kvmove-agent on {host} to this version")

        def policy(now: Snapshot) -> EvacuationPlan:
            terms = Terms(request.move_disks, request.at_once, now.limits)
            return evacuate(now.cluster(), host, now.rules, terms, Shown(request.steps, failed or {}))

        return await self._placing.decide(policy, refresh=False)

    async def enter(self, host: str, request: MaintenanceRequest, by: str, *, first: bool = False) -> Task:
        """Mark the host and begin to move its VMs off; the task tells how it goes. On a host that is under maintenance
        already, with VMs that remain, it is tried again; but not if it has to be the `first`. The steps of the request,
        or else of a plan made now, are what is done; what of them is not possible is planned anew: the task notes it.

        :raise NotFound, Unreachable, CheckFailed: as of `plan`.
        :raise Busy: it is entering maintenance already, or, with `first`, is under maintenance.
        """
        if host in self._entering:
            raise Busy(f"{host} is entering maintenance already", hint="watch it: kvmove task list --running")
        mark = self._store.kept.maintenance.get(host)
        if first and mark is not None:
            raise Busy(f"{host} is in maintenance already, by {mark.by or 'nobody'}", hint="kvmove host show " + host)
        self._entering.add(host)
        try:
            plan = await self.plan(host, request)
            if host in self._running and self._book.get(self._batches[host].parent).ended_state:
                await asyncio.shield(self._running[host])  # it has ended, and lets go of the host in this moment
            if host in self._running:
                raise Busy(f"{host} is entering maintenance already", hint="watch it: kvmove task list --running")
            return await self._enter(plan, request, by)
        finally:
            self._entering.discard(host)

    async def _enter(self, plan: EvacuationPlan, request: MaintenanceRequest, by: str) -> Task:
        host = plan.host
        notes = (*_gone(plan, request), *plan.changes)
        task = Task(
            id=secrets.token_hex(8),
            kind=KIND,
            vm="",
            source=host,
            destination="",
            state=TaskState.RUNNING,
            created=now(),
            started=now(),
            started_by=by,
            notes=notes,
        )
        await self._book.add(task)
        mark = HostMaintenance(
            state=MaintenanceState.ENTERING,
            since=now(),
            by=by,
            task=task.id,
            move_disks=request.move_disks,
            at_once=request.at_once,
            steps=tuple(step.decided for step in plan.steps),
        )
        await self._store.mark(host, mark)
        _LOG.info("host %s enters maintenance, asked for by %s: task %s", host, by or "nobody", task.id)
        _log(task.id, notes)
        self._go(host, mark)
        return task

    async def exit(self, host: str) -> HostStatus:
        """The host takes VMs again; an evacuation under way is cancelled first. Nothing happens when it is not under
        maintenance.

        :raise NotFound: no such host.
        :raise Busy: it is just being marked.
        """
        self._inventory.host(host)
        if host in self._entering:
            raise Busy(f"{host} is just entering maintenance", hint="try again in a moment")
        if host in self._running:
            await self._batches[host].stop()
            await asyncio.shield(self._running[host])
        if host in self._store.kept.maintenance:
            await self._store.mark(host, None)
            _LOG.info("host %s takes VMs again", host)
        return self._inventory.host(host)

    async def forget(self, host: str) -> None:
        """The host is to be removed: nothing that was decided about it stays, for one that comes by its name later.

        :raise Busy: it is just being marked.
        """
        if any(known.name == host for known in self._inventory.hosts()):
            await self.exit(host)
        kept = self._store.kept
        if host in kept.maintenance or host in kept.powered_off:
            off = {name: since for name, since in kept.powered_off.items() if name != host}
            await self._store.change(powered_off=off)
            await self._store.mark(host, None)

    async def require_empty(self, host: str, task_id: str) -> None:
        """Return when the host is empty by its agent's word of now, and under maintenance by that task still.

        :raise NotFound, Unreachable: nobody can tell.
        :raise CheckFailed: it is not so.
        """
        await self._inventory.look_at({host})
        self._inventory.answering(host)
        mark = self._store.kept.maintenance.get(host)
        if mark is None or mark.task != task_id:
            raise CheckFailed(f"{host} is not in maintenance for this any more")
        there = [vm.definition.name for vm in self._inventory.vms() if vm.host == host]
        coming = [task.vm for task in self._book.unended() if task.vm and host in (task.source, task.destination)]
        if there or coming:
            raise CheckFailed(f"{host} is not empty any more: {', '.join(sorted({*there, *coming}))}")

    async def cancel(self, task: Task) -> Task:
        """Stop the evacuation that is `task`; it ends as cancelled, and the host takes VMs again."""
        if task.source not in self._batches:
            raise Busy(f"{task.source} is not being evacuated by this task any more")
        await self._batches[task.source].stop()
        return self._book.get(task.id)

    def _go(self, host: str, mark: HostMaintenance) -> None:
        self._batches[host] = Batch(self._moves, self._book, mark.task, mark.by)
        self._running[host] = asyncio.create_task(self._run(host, mark), name=f"maintenance of {host}")

    async def _run(self, host: str, mark: HostMaintenance) -> None:
        batch = self._batches[host]
        try:
            remains = await self._evacuate(host, mark, batch)
            await self._end(host, mark, batch, remains)
        except KvmoveError as error:
            await self._end(host, mark, batch, (Remaining(vm="", why=error.detail),))
        except Exception as error:
            _LOG.exception("the evacuation of %s failed, which should not be", host)
            await self._end(host, mark, batch, (Remaining(vm="", why=f"a defect of ours: {error!r}"),))
        finally:
            del self._batches[host], self._running[host]

    async def _evacuate(self, host: str, mark: HostMaintenance, batch: Batch) -> tuple[Remaining, ...]:
        """Plan and move until nothing is left that can be moved; what others do meanwhile is seen by the next plan."""
        await batch.adopt()
        failed: dict[str, list[str]] = {}
        while not batch.stopped:
            mark, plan = await self._follow(host, mark, {vm: why[-1] for vm, why in failed.items()})
            todo = [step for step in plan.steps if len(failed.get(step.vm, ())) < TRIES]
            if not todo and self._somebody_arrives(host):
                await asyncio.sleep(_ARRIVING_SECONDS)
            elif not todo:
                given_up = [Remaining(vm=step.vm, why=failed[step.vm][-1]) for step in plan.steps]
                return (*given_up, *plan.remains)
            else:
                requests = [
                    MoveRequest(vm=step.vm, host=step.destination, only_kind=step.kind, from_host=host) for step in todo
                ]
                for outcome in await self._round(mark.task, batch, requests, plan.at_once):
                    if outcome.error is not None:
                        failed.setdefault(outcome.request.vm, []).append(outcome.error.detail)
        return ()

    async def _follow(
        self, host: str, mark: HostMaintenance, failed: Mapping[str, str]
    ) -> tuple[HostMaintenance, EvacuationPlan]:
        """What is left of the plan, and the mark with what had to be planned anew: a restart follows that then."""
        request = MaintenanceRequest(move_disks=mark.move_disks, at_once=mark.at_once, steps=mark.steps)
        plan = await self.plan(host, request, failed)
        kept = {step.vm: step for step in mark.steps}
        steps = tuple({**kept, **{step.vm: step.decided for step in plan.steps}}.values())
        if steps != mark.steps:
            mark = mark.model_copy(update={"steps": steps})
            await self._store.mark(host, mark)
        if plan.changes:
            _log(mark.task, plan.changes)
            await self._book.change(mark.task, notes=(*self._book.get(mark.task).notes, *plan.changes))
        return mark, plan

    def _somebody_arrives(self, host: str) -> bool:
        return any(vm.host == host and vm.state is VmState.INCOMING for vm in self._inventory.vms())

    async def _round(self, task: str, batch: Batch, requests: list[MoveRequest], at_once: int) -> list[Outcome]:
        total = self._moved(task) + len(requests)

        async def tell(_: Outcome | None) -> None:
            await self._book.change(task, vm_state=f"{self._moved(task)} of {total} VMs moved")

        await tell(None)
        return await batch.run(requests, at_once, tell)

    async def _end(self, host: str, mark: HostMaintenance, batch: Batch, remains: tuple[Remaining, ...]) -> None:
        moved = self._moved(mark.task)
        if batch.stopped:
            await self._store.mark(host, None)
            said: KvmoveError = Cancelled(
                f"the evacuation of {host} was cancelled; {moved} VMs had moved and stay where they are",
                hint=f"{host} takes VMs again",
            )
            await self._book.change(
                mark.task, state=TaskState.CANCELLED, problem=said.problem(), ended=now(), vm_state=f"{moved} moved"
            )
            return
        await self._store.mark(
            host, mark.model_copy(update={"state": MaintenanceState.ON, "steps": (), "remains": remains})
        )
        if not remains:
            await self._book.change(mark.task, state=TaskState.SUCCEEDED, ended=now(), vm_state=f"{moved} moved")
            return
        said = CheckFailed(
            f"{len(remains)} remain on {host}: " + "; ".join(f"{it.vm or host}: {it.why}" for it in remains),
            hint=f"{host} takes no VM meanwhile; mend this and enter again, or kvmove host maintenance exit {host}",
            vm_state=f"{moved} moved, {len(remains)} remain on {host}",
        )
        await self._book.change(
            mark.task, state=TaskState.FAILED, problem=said.problem(), ended=now(), vm_state=said.vm_state
        )

    def _moved(self, task: str) -> int:
        """How many VMs the evacuation has moved, those of an earlier life of the manager too."""
        return sum(1 for it in self._book.all() if it.parent == task and it.state is TaskState.SUCCEEDED)


def _gone(plan: EvacuationPlan, request: MaintenanceRequest) -> list[str]:
    """The VMs of the plan shown that are not on the host any more, in words."""
    there = {step.vm for step in plan.steps} | {it.vm for it in plan.remains}
    return [f"{step.vm} is not on {plan.host} any more" for step in request.steps if step.vm not in there]


def _log(task: str, notes: Iterable[str]) -> None:
    for note in notes:
        _LOG.warning("task %s: %s", task, note)
