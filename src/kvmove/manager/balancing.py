"""Looks at the load of all hosts, recommends moves, and applies them: those that are asked for, or by itself.

Invariants: nothing moves by itself unless the mode is automatic and the same kind of thing has been recommended for as
long as `hold_seconds` at every look; one batch runs at a time; a VM that was moved rests for `rest_seconds`. What is
asked for by its id is applied as it was shown (see `shown_plans`), or nothing of it.

What is worth moving is decided in `placement`, whether a move can be made in `moves`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from kvmove.errors import Busy, CheckFailed, KvmoveError, NotFound
from kvmove.manager.balance_settings import BalanceSettings
from kvmove.manager.batch import Batch, Outcome
from kvmove.manager.follow import now
from kvmove.manager.maintenance import Maintenance
from kvmove.manager.moves import Moves
from kvmove.manager.placement_store import PlacementStore
from kvmove.manager.placing import Placing, Snapshot
from kvmove.manager.power import HostPower
from kvmove.manager.shown_plans import ShownPlans, pick
from kvmove.manager.task_book import TaskBook
from kvmove.model.move import DiskRequest, MoveKind, MoveRequest
from kvmove.model.placement import (
    AUTO,
    Action,
    Applied,
    BalancePlan,
    BalanceStatus,
    Cause,
    HostBalance,
    MaintenanceRequest,
    Mode,
    Recommendation,
    Rule,
)
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import VmPlacement
from kvmove.placement.cluster import Cluster
from kvmove.placement.compute import balance
from kvmove.placement.hold import Hold
from kvmove.placement.power import power
from kvmove.placement.standing import objections
from kvmove.placement.storage import balance_storage

_LOG = logging.getLogger(__name__)

KIND = "balance"
BY = "(balancing)"
"""Who starts what automatic mode does; no user can be called so."""

_MANUAL = "the balance mode is manual: kvmove chooses no host by itself"
_PARTIAL = 'name it, or set mode = "partial" in manager.toml, [balance]'


class Helpers(NamedTuple):
    """What balancing works with."""

    placing: Placing
    moves: Moves
    book: TaskBook
    store: PlacementStore
    maintenance: Maintenance


class Balancer:
    """Balances by `settings`. Lives on one event loop; `run` looks again and again, `close` in the end. `clock` gives
    seconds and never goes back."""

    def __init__(
        self, settings: BalanceSettings, helpers: Helpers, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._it = helpers
        self._clock = clock
        self._shown = ShownPlans()
        self._power = HostPower(settings.power, helpers.store)
        self._hold = Hold()
        self._power_hold = Hold()
        self._batch: Batch | None = None
        self._applying: asyncio.Task[None] | None = None
        helpers.moves.cancel_by_kind[KIND] = self.cancel

    async def run(self) -> None:
        """Look every so often until cancelled, and apply what has lasted where the mode is automatic."""
        await self._clean_up()
        while True:
            try:
                await self.look()
            except KvmoveError as error:
                _LOG.warning("balancing: %s", error.detail)
            except Exception:
                _LOG.exception("balancing failed, which should not be; trying again")
            await asyncio.sleep(self._settings.interval_seconds)

    async def close(self) -> None:
        """Stop; moves that run go on."""
        if self._applying is not None:
            self._applying.cancel()
            await asyncio.gather(self._applying, return_exceptions=True)

    async def look(self) -> None:
        """One look at the load; what has been recommended for long enough is applied if the mode has it."""
        found = (await self._recommended()).recommendations
        moves = [it for it in found if it.action is Action.MOVE]
        power_now = [it for it in found if it.action is not Action.MOVE]
        at = self._clock()
        self._hold = self._hold.seen(bool(moves), at)
        self._power_hold = self._power_hold.seen(bool(power_now), at)
        if self._batch is not None:
            return
        ready: list[Recommendation] = []
        if self._settings.mode is Mode.AUTOMATIC and self._lasted(self._hold, at):
            ready += moves
        if self._settings.power.mode == "automatic" and self._lasted(self._power_hold, at):
            ready += power_now
        if ready:
            await self._start(ready, BY)

    async def status(self) -> BalanceStatus:
        """How balanced the hosts are now."""
        cluster = await self._it.placing.decide(Snapshot.cluster)
        off = self._it.store.kept.powered_off
        return BalanceStatus(
            mode=self._settings.mode,
            imbalance=round(cluster.imbalance, 4),
            threshold=self._settings.threshold,
            lasting=self._hold.lasting(self._clock()),
            hold_seconds=self._settings.hold_seconds,
            hosts=(*(_row(cluster, name) for name in cluster.hosts), *(_off_row(name) for name in sorted(off))),
            note="" if len(cluster.hosts) > 1 else "fewer than two hosts tell their load: there is nothing to balance",
        )

    async def plan(self) -> BalancePlan:
        """What is recommended now, to be shown to somebody; nothing is changed."""
        found = await self._recommended()
        self._shown.remember(found, self._clock())
        return found

    async def _recommended(self) -> BalancePlan:
        off = frozenset(self._it.store.kept.powered_off)
        return await self._it.placing.decide(lambda seen: recommend(seen, self._settings, off))

    async def apply(self, ids: Sequence[str], by: str) -> Task:
        """Apply these recommendations as they were shown, or all that is recommended now when none is named; the task
        tells how it goes.

        :raise NotFound: one of them is not recommended (any more), and was not shown lately either.
        :raise CheckFailed: nothing is recommended, or one of them cannot be done any more.
        :raise Busy: recommendations are being applied already.
        """
        if not ids:
            chosen = list((await self._recommended()).recommendations)
            if not chosen:
                raise CheckFailed("nothing is recommended: there is nothing to apply", hint="kvmove balance status")
            return await self._start(chosen, by)
        shown = self._shown.choose(ids, self._clock())
        if shown is None:
            shown = pick(await self._recommended(), ids)
        chosen = shown
        said = await self._it.placing.decide(lambda seen: objections(chosen, seen.cluster(), seen.rules))
        if said:
            raise CheckFailed(
                f"this cannot be done as it was shown: {'; '.join(said)}",
                hint="nothing was begun; see what is recommended now: kvmove balance plan",
            )
        return await self._start(chosen, by)

    def history(self) -> list[Applied]:
        """What was applied, newest first."""
        return list(reversed(self._it.store.kept.history))

    def rules(self) -> list[Rule]:
        return list(self._it.store.kept.rules)

    async def add_rule(self, rule: Rule) -> Rule:
        """:raise Busy: there is a rule of that name."""
        if any(rule.name == it.name for it in self.rules()):
            raise Busy(f"there is a rule {rule.name} already", hint=f"kvmove balance rules remove {rule.name}")
        await self._it.store.change(rules=(*self._it.store.kept.rules, rule))
        return rule

    async def remove_rule(self, name: str) -> None:
        """:raise NotFound: there is none."""
        left = tuple(rule for rule in self.rules() if rule.name != name)
        if len(left) == len(self.rules()):
            raise NotFound(f"there is no rule {name}", hint="kvmove balance rules list")
        await self._it.store.change(rules=left)

    async def resolve(self, request: MoveRequest) -> MoveRequest:
        """The request with a host in place of `auto`.

        :raise CheckFailed: no host can take the VM, or the mode is manual; the best host is in the hint then.
        """
        if request.host != AUTO:
            return request
        best = await self._it.placing.best_host(request.vm)
        if self._settings.mode is Mode.MANUAL:
            raise CheckFailed(_MANUAL, hint=f"the best is {best.host.name} ({best.why}); {_PARTIAL}")
        return request.model_copy(update={"host": best.host.name})

    async def resolve_new(self, placement: VmPlacement) -> VmPlacement:
        """The same for a VM that is to be defined. Raises as `resolve` does."""
        if placement.host != AUTO:
            return placement
        best = await self._it.placing.first_host(placement.definition)
        if self._settings.mode is Mode.MANUAL:
            raise CheckFailed(_MANUAL, hint=f"the best is {best}; {_PARTIAL}")
        return placement.model_copy(update={"host": best})

    async def cancel(self, task: Task) -> Task:
        """Apply nothing more of what `task` is, and undo the move that runs."""
        if self._batch is None or self._applying is None or self._applying.get_name() != task.id:
            raise Busy(f"task {task.id} is past its moves, or was begun by an earlier life of the manager")
        await self._batch.stop()
        return self._it.book.get(task.id)

    def _lasted(self, hold: Hold, at: float) -> bool:
        lasting = hold.lasting(at)
        return lasting is not None and lasting >= self._settings.hold_seconds

    async def _start(self, chosen: list[Recommendation], by: str) -> Task:
        if self._batch is not None:
            raise Busy("recommendations are being applied already", hint="kvmove task list --running")
        task_id = secrets.token_hex(8)
        task = Task(
            id=task_id, kind=KIND, vm="", source="", destination="", state=TaskState.RUNNING, created=now(),
            started=now(), started_by=by, vm_state=f"0 of {len(chosen)} done",
        )  # fmt: skip
        self._batch = Batch(self._it.moves, self._it.book, task_id, by)
        await self._it.book.add(task)
        self._applying = asyncio.create_task(self._apply(task, self._batch, chosen, by), name=task_id)
        return task

    async def _apply(self, task: Task, batch: Batch, chosen: list[Recommendation], by: str) -> None:
        """Moves first, as many at once as the settings have it; then power, one host after the other."""
        failed: list[str] = []
        done = 0
        by_request = {_request(it): it for it in chosen if it.action is Action.MOVE}

        async def tell(it: Recommendation, child: str, error: KvmoveError | None) -> None:
            nonlocal done
            done += error is None
            if error is not None:
                failed.append(f"{it.vm or it.host}: {error.detail}")
            elif it.vm:
                await self._rests(it.vm)
            outcome = "done" if error is None else error.detail
            entry = Applied(at=now(), by=by, recommendation=it, task=child, outcome=outcome)
            await self._it.store.remember(entry)
            await self._it.book.change(task.id, vm_state=f"{done} of {len(chosen)} done")

        async def ended(outcome: Outcome) -> None:
            await tell(by_request[_key(outcome.request)], outcome.task, outcome.error)

        try:
            await batch.run([_move_request(it) for it in by_request.values()], self._settings.at_once, ended)
            for it in chosen:
                if it.action is not Action.MOVE and not batch.stopped:
                    await tell(it, *await self._switch(it))
            await self._end(task.id, failed, stopped=batch.stopped)
        except Exception as error:
            _LOG.exception("balancing failed, which should not be")
            await self._end(task.id, [*failed, f"a defect of ours: {error!r}"], stopped=False)
        finally:
            self._applying = self._batch = None

    async def _end(self, task_id: str, failed: list[str], *, stopped: bool) -> None:
        if failed or stopped:
            said = CheckFailed(
                "; ".join(failed) or "cancelled; what was done stays so",
                hint="see what is recommended now: kvmove balance plan",
            )
            state = TaskState.CANCELLED if stopped else TaskState.FAILED
            await self._it.book.change(task_id, state=state, problem=said.problem(), ended=now())
        else:
            await self._it.book.change(task_id, state=TaskState.SUCCEEDED, ended=now())

    async def _switch(self, it: Recommendation) -> tuple[str, KvmoveError | None]:
        """Power a host on, or empty it and power it off; one that cannot be emptied takes VMs again. Somebody else's
        maintenance of it stays."""
        task_id = ""
        try:
            if it.action is Action.POWER_ON:
                await self._power.on(it.host)
                return "", None
            task_id = (await self._it.maintenance.enter(it.host, MaintenanceRequest(), BY, first=True)).id
            while not (task := self._it.book.get(task_id)).ended_state:
                async for _ in self._it.book.watch(task_id, task.revision):
                    pass
                await asyncio.sleep(0.1)
            if task.state is not TaskState.SUCCEEDED:
                raise CheckFailed(f"{it.host} could not be emptied: {(task.problem or {}).get('detail', '')}")
            await self._power.off(it.host, lambda: self._it.maintenance.require_empty(it.host, task_id))
        except KvmoveError as error:
            mark = self._it.store.kept.maintenance.get(it.host)
            if task_id and mark is not None and mark.task == task_id:
                await self._it.maintenance.exit(it.host)
            return task_id, error
        return task_id, None

    async def _rests(self, vm: str) -> None:
        """Balancing has just moved it. Those that have rested are forgotten."""
        since = time.time() - self._settings.rest_seconds
        moved = {uuid: at for uuid, at in self._it.store.kept.moved.items() if at > since}
        uuid = self._it.placing.uuid_of(vm)
        await self._it.store.change(moved=moved | ({str(uuid): time.time()} if uuid else {}))

    async def _clean_up(self) -> None:
        """What an earlier life of the manager left: tasks of balancing, and hosts emptied to be powered off."""
        for task in self._it.book.running():
            if task.kind == KIND:
                await self._drop_queued(task.id)
                await self._end(task.id, ["the manager was restarted; moves that ran go on"], stopped=False)
        kept = self._it.store.kept
        for host, mark in kept.maintenance.items():
            if mark.by == BY and host not in kept.powered_off:
                try:
                    await self._it.maintenance.exit(host)
                except NotFound:
                    await self._it.maintenance.forget(host)
                except KvmoveError as error:
                    _LOG.warning("balancing: %s", error.detail)

    async def _drop_queued(self, parent: str) -> None:
        for child in self._it.book.queued():
            if child.parent == parent:
                with suppress(Busy):  # its turn has come meanwhile, and it ended
                    await self._it.moves.cancel(child)


def recommend(seen: Snapshot, settings: BalanceSettings, powered_off: frozenset[str]) -> BalancePlan:
    """All that is recommended: moves between hosts, then disks between datastores, then power if nothing is to be
    moved. Pure."""
    cluster = seen.cluster()
    plan = balance(cluster, seen.rules, settings.tuning)
    found = list(plan.recommendations)
    if settings.clusters:
        busy = frozenset(cluster.by_name[it.vm].uuid for it in found)
        found += balance_storage(seen.cluster(busy), settings.groups, settings.storage)
    if settings.power.mode != "off" and not found:
        found += power(seen.cluster(), seen.rules, settings.power.tuning, powered_off, seen.limits)
    return plan.model_copy(update={"recommendations": tuple(found)})


def _move_request(it: Recommendation) -> MoveRequest:
    """What is to be moved as it was recommended, or not at all."""
    if it.cause is Cause.STORAGE or it.kind is MoveKind.STORAGE:
        disks = {it.disk: DiskRequest(datastore=it.destination)}
        return MoveRequest(vm=it.vm, disks=disks, only_kind=MoveKind.STORAGE, from_host=it.host)
    return MoveRequest(vm=it.vm, host=it.destination, only_kind=it.kind, from_host=it.source)


def _key(request: MoveRequest) -> str:
    return request.model_dump_json()


def _request(it: Recommendation) -> str:
    return _key(_move_request(it))


def _row(cluster: Cluster, name: str) -> HostBalance:
    host = cluster.hosts[name]
    state = "up" if host.open else "takes no VMs"
    return HostBalance(
        name=name, cpu=round(host.cpu, 4), memory=round(host.memory, 4), vms=len(host.guests), state=state
    )


def _off_row(name: str) -> HostBalance:
    return HostBalance(name=name, cpu=0.0, memory=0.0, vms=0, state="powered off")
