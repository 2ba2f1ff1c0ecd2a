"""Takes moves on, one per VM at a time, begins each when its turn comes (`turns`), and cancels them; `follow` sees them
to their end.

Order of a start, and why: the task is on disk, queued, before anything else, so that a manager that dies finds it
again. When its turn comes at once, it begins with the plan that was just made; later, everything is looked at and
planned anew, and what blocks it by then ends the task. It is on disk as running before any agent hears of the move; the
destination expects the move before the source begins it; and when the source's answer is lost, the move may have begun,
so the task is followed rather than called a failure. A task that a restarted manager finds running is followed, unless
source and registry prove that its move never began: then it waits for its turn again, as another move to the agents.
What all managers share (`move_slots`) is taken before the task runs, and given back once it does not.

Invariant: the ticket goes to the two agents and nowhere else: not into the task, the log, an answer or an error.
"""

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from kvmove.errors import Busy, Cancelled, InvalidInput, KvmoveError, MoveFailed, NotFound, Unreachable
from kvmove.manager.checks import Checks
from kvmove.manager.follow import Follower, now
from kvmove.manager.forecasts import Forecasts
from kvmove.manager.inventory import Inventory
from kvmove.manager.task_book import TaskBook
from kvmove.manager.task_log import MANAGER, TaskLogs
from kvmove.manager.turns import Turns
from kvmove.migration.move_log import logged_as
from kvmove.model.log import LogLine
from kvmove.model.move import MoveCheck, MoveKind, MovePlan, MoveRequest
from kvmove.model.ownership import OwnershipState
from kvmove.model.ranking import MoveRanking
from kvmove.model.schedule import parse_start
from kvmove.model.task import Task, TaskChange, TaskState
from kvmove.model.vm import VmStatus
from kvmove.move_log import MoveLog
from kvmove.registry.interface import Registry

_LOG = logging.getLogger(__name__)

_TICKET_BYTES = 32
_AFTER_FAULT_SECONDS = 5.0

QUEUE_SECONDS = 1.0
"""So often is the queue looked at while something waits: a time comes, a host answers again."""

_NOT_QUEUED: dict[str, Any] = {"position": None, "queue_reason": ""}


class Moves:
    """The moves of this manager. Lives on one event loop. `cancel_by_kind` cancels tasks that are no move."""

    def __init__(
        self,
        inventory: Inventory,
        registry: Registry,
        book: TaskBook,
        follower: Follower,
        turns: Turns | None = None,
        kept: MoveLog | None = None,
    ) -> None:
        self._inventory = inventory
        self._registry = registry
        self._book = book
        self._follower = follower
        self._forecasts = Forecasts(inventory, book)
        self._turns = turns or Turns(book, inventory)
        self.checks = Checks(inventory, registry, self._turns.would_wait)
        self._logs = TaskLogs(inventory, book, kept or MoveLog(MANAGER))
        self._starting: set[UUID] = set()
        self._planned: set[str] = set()
        self._beginning: dict[str, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._moved_on = asyncio.Event()
        self.cancel_by_kind: dict[str, Callable[[Task], Awaitable[Task]]] = {}

    def resume(self) -> None:
        """Follow again what was running when the manager ended, and let the queue move on from now on."""
        for task in self._book.running():
            if task.plan is not None:
                self._spawn(self._turns.slots.keep(task), f"slots of {task.id}")  # a silent registry delays nothing
                self._spawn(self._take_up(task, task.plan), f"take up {task.id}")
        self._spawn(self._keep_advancing(), "queue")

    async def close(self) -> None:
        """Stop following. The moves go on, and what is queued stays so."""
        working = [*self._background, *self._beginning.values()]
        for work in working:
            work.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    async def check(self, request: MoveRequest, *, forecast: bool = False) -> MoveCheck:
        """What the move would do, and what to know before; nothing is changed. With `forecast` the hosts are sampled,
        which takes up to `forecasts.SAMPLE_SECONDS`, and a start of the same request keeps it.

        :raise NotFound: no such VM or host.
        :raise CheckFailed: something blocks it; every blocker is named, with its remedy.
        :raise Busy: the VM moves already.
        """
        vm = await self.checks.find(request)
        self._refuse_second(vm)
        checked = await self.checks.check(request, vm)
        if not forecast:
            return checked
        return checked.model_copy(update={"forecast": await self._forecasts.of(request, checked.plan)})

    async def rank(self, request: MoveRequest) -> MoveRanking:
        """All hosts that the VM could go to, best first; nothing is changed.

        :raise NotFound: no such VM. :raise Busy: the VM moves already.
        :raise InvalidInput: the request names a host.
        """
        if request.host is not None:
            raise InvalidInput(f"the request names host {request.host}", hint="to check one host: POST /moves:check")
        vm = await self.checks.find(request)
        self._refuse_second(vm)
        busy = Counter(host for task in self._book.running() for host in {task.source, task.destination})
        return await self.checks.rank(request, vm, busy)

    async def start(self, request: MoveRequest, *, by: str = "", parent: str | None = None) -> Task:
        """Take the move on: it begins now or is queued; its task tells. Raises as `check` does, and, when it begins
        now, what an agent says against it.

        After an error of an agent the task is there too, as failed. After a lost answer of the source it runs.

        :param by: who asks. :param parent: the task that this move is a part of.
        """
        vm = await self.checks.find(request)
        with self._alone(vm):
            plan = (await self.checks.check(request, vm, fresh=False)).plan
            task = _task(plan, self._resolved(request, plan), by, parent)
            known = {"claims": self._turns.claims(plan), "forecast": self._forecasts.recall(request)}
            task = await self._book.add(task.model_copy(update=known))
            with logged_as(plan):
                _LOG.info("%s is to go from %s to %s", task.vm, task.source, task.destination)
        self._planned.add(task.id)
        try:
            await self._advance()
            if task.id in self._beginning:
                await asyncio.shield(self._beginning[task.id])
                await self._advance()  # it may wait after all: that is told at once
        finally:
            self._planned.discard(task.id)
            self._moved_on.set()  # it may wait for its time: from now on the queue is looked at
        return self._book.get(task.id)

    async def retry(self, task: Task, *, by: str = "") -> Task:
        """Ask once more for what an ended task was asked for, for itself; gives the new task. Raises as `start` does.

        :raise Busy: it has not ended. :raise NotFound: it keeps no request.
        """
        if not task.ended_state:
            raise Busy(f"task {task.id} is {task.state}, and not over", hint=f"watch it: kvmove task watch {task.id}")
        if task.request is None:
            raise NotFound(f"task {task.id} does not say what it was asked for", hint="ask for the move anew")
        return await self.start(task.request, by=by)

    async def change(self, task: Task, change: TaskChange) -> Task:
        """Change what a queued task was asked for; with another priority it takes its new place at once.

        :raise Busy: it is not queued; nothing is changed then.
        """
        task = self._book.get(task.id)
        if task.state is not TaskState.QUEUED:
            raise Busy(f"task {task.id} is {task.state}", vm_state=task.vm_state)
        wanted = change.model_dump(exclude_none=True)
        request = task.request and task.request.model_copy(update=wanted)
        await self._book.change(task.id, priority=change.priority or task.priority, request=request)
        await self._advance()
        return self._book.get(task.id)

    async def cancel(self, task: Task) -> Task:
        """End a queued move at once; ask the source of a running one to undo it.

        :raise Busy: the task has ended, or the move is past the point where it can be undone.
        :raise Unreachable: the source does not answer.
        """
        task = self._book.get(task.id)
        if task.kind in self.cancel_by_kind and not task.ended_state:
            return await self.cancel_by_kind[task.kind](task)
        if task.state is TaskState.QUEUED:
            return await self._cancel_queued(task)
        beginning = self._beginning.get(task.id)
        if beginning is not None:
            await asyncio.wait({beginning})
            task = self._book.get(task.id)
        if task.ended_state:
            raise Busy(f"task {task.id} has ended already: {task.state}", vm_state=task.vm_state)
        await self._inventory.agent(task.source).cancel(task.plan.move_id if task.plan else task.id)
        return self._book.get(task.id)

    async def log(self, task: Task) -> list[LogLine]:
        """What the manager and both agents have logged of the task, oldest first."""
        return await self._logs.of(task)

    def _is_orphan(self, task: Task) -> bool:
        """Whether nobody wants the move any more: the task that began it, for hosts as they were then, is over."""
        if task.parent is None:
            return False
        try:
            return self._book.get(task.parent).ended_state
        except NotFound:
            return True

    async def _cancel_queued(self, task: Task, why: str = "it was queued, and somebody cancelled it") -> Task:
        error = Cancelled(f"the move was cancelled before it began: {why}", vm_state=task.vm_state)
        state = TaskState.CANCELLED
        await self._book.change(task.id, state=state, problem=error.problem(), ended=now(), **_NOT_QUEUED)
        _LOG.info("task %s was cancelled before it began: %s", task.id, why)
        self._spawn(self._logs.keep(task.id), f"log of {task.id}")
        self._moved_on.set()
        return self._book.get(task.id)

    # The queue.

    async def _keep_advancing(self) -> None:
        """For ever: when something ended, and every moment while something waits, let the queue move on."""
        while True:
            self._moved_on.clear()
            try:
                await self._advance()
            except Exception:
                _LOG.exception("the queue could not move on; trying again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUEUE_SECONDS if self._book.queued() else None):
                    await self._moved_on.wait()

    async def _advance(self) -> None:
        await self._turns.advance(self._give_turn)

    def _give_turn(self, task_id: str) -> None:
        self._beginning[task_id] = asyncio.create_task(self._turn(task_id), name=f"begin {task_id}")
        self._beginning[task_id].add_done_callback(lambda done: self._turn_over(task_id, done))

    def _turn_over(self, task_id: str, done: asyncio.Task[None]) -> None:
        del self._beginning[task_id]
        self._turns.over(task_id)
        self._moved_on.set()
        if not done.cancelled() and (error := done.exception()) is not None:
            _LOG.warning("task %s did not begin: %s", task_id, error)

    async def _turn(self, task_id: str) -> None:
        try:
            await self._begin(task_id)
        finally:
            await self._turns.slots.settle(task_id)

    async def _begin(self, task_id: str) -> None:
        """The task's turn: its move runs, or it waits again, or has ended, when this returns.

        :raise KvmoveError: the task has ended by it.
        """
        task = self._book.get(task_id)
        if self._is_orphan(task):
            await self._cancel_queued(task, "the task that it was a part of has ended")
            return
        plan = task.plan if task_id in self._planned else await self._plan_again(task)
        if plan is None:
            return
        claims = self._turns.claims(plan)
        if waits := await self._turns.slots.take(task_id, claims):
            self._turns.postpone(task_id, waits)
            return
        places = {"source": plan.source.name, "destination": plan.destination.name}
        fields = {"state": TaskState.RUNNING, "started": now(), "plan": plan, "claims": claims}
        task = await self._book.change(task_id, **fields, **places, **_NOT_QUEUED)
        if task.state is not TaskState.RUNNING:
            return  # cancelled meanwhile
        with logged_as(plan):
            _LOG.info("the move begins")
            await self._tell_agents(task, plan)
        self._follow(task.id, plan)

    async def _plan_again(self, task: Task) -> MovePlan | None:
        """The world may have changed since the task was queued. None: it is not its turn after all.

        :raise KvmoveError: something blocks it now, and the task has ended by that.
        """
        try:
            if task.request is None or task.plan is None:
                raise MoveFailed("the task does not say what it was asked for", hint="ask for the move anew")
            vm = await self.checks.find(task.request)
            plan = (await self.checks.check(task.request, vm, fresh=False)).plan.model_copy(
                update={"move_id": task.plan.move_id}
            )
        except Unreachable as error:
            self._turns.postpone(task.id, f"waits for an answer: {error.detail}")
            return None
        except KvmoveError as error:
            await self._not_begun(task, error)
            raise
        except Exception as error:
            failed = MoveFailed(f"the move could not be planned by a defect of ours: {error!r}")
            await self._not_begun(task, failed)
            raise failed from error
        claims = self._turns.claims(plan)
        if self._turns.has_room(task.id, claims):
            return plan
        await self._book.change(task.id, plan=plan, claims=claims)
        return None

    async def _take_up(self, task: Task, plan: MovePlan) -> None:
        if task.progress is None and await self._never_began(plan):
            _LOG.warning("move %s had not begun when the manager ended; task %s waits again", plan.move_id, task.id)
            again = plan.model_copy(update={"move_id": secrets.token_hex(8)})
            await self._book.change(task.id, state=TaskState.QUEUED, started=None, plan=again)
            await self._turns.slots.settle(task.id)
            self._moved_on.set()
        else:
            await self._follow_to_end(task.id, plan)

    async def _never_began(self, plan: MovePlan) -> bool:
        """Whether it is proven that no agent began this move."""
        try:
            source = self._inventory.agent(plan.source.name)
        except NotFound:
            return False
        try:
            await source.move(plan.move_id)
        except NotFound:
            with contextlib.suppress(KvmoveError):
                record = await self._registry.get(plan.vm.uuid)
                owned = record is not None and record.state is OwnershipState.OWNED
                return owned and record is not None and (record.owner, record.epoch) == (plan.source.name, plan.epoch)
        except KvmoveError:
            _LOG.info("move %s: its source does not say whether it began", plan.move_id)
        return False

    def _resolved(self, request: MoveRequest, plan: MovePlan) -> MoveRequest:
        """What was asked for, so that it still means the same when its turn comes: this VM, that moment."""
        at = request.at and parse_start(request.at, self._turns.clock()).isoformat()
        return request.model_copy(update={"vm": str(plan.vm.uuid), "at": at})

    @contextmanager
    def _alone(self, vm: VmStatus) -> Iterator[None]:
        """Two requests at once: the second finds the first here, until the first one's task is in the book."""
        self._refuse_second(vm)
        self._starting.add(vm.definition.uuid)
        try:
            yield
        finally:
            self._starting.discard(vm.definition.uuid)

    def _refuse_second(self, vm: VmStatus) -> None:
        uuid, name = vm.definition.uuid, vm.definition.name
        if uuid in self._starting:
            raise Busy(f"a move of {name} is being started", hint="see kvmove task list")
        for task in self._book.unended():
            if task.plan is not None and task.plan.vm.uuid == uuid:
                waits = "has a move that is queued" if task.state is TaskState.QUEUED else "moves already"
                raise Busy(
                    f"{name} {waits}: {task.source} to {task.destination}",
                    hint=f"watch it: kvmove task watch {task.id}, or cancel it: kvmove task cancel {task.id}",
                    vm_state=task.vm_state,
                )

    async def _tell_agents(self, task: Task, plan: MovePlan) -> None:
        ticket = secrets.token_hex(_TICKET_BYTES)
        try:
            if plan.kind is not MoveKind.STORAGE:
                await self._inventory.agent(plan.destination.name).expect_incoming(plan, ticket)
        except KvmoveError as error:
            await self._not_begun(task, error)
            raise
        try:
            await self._inventory.agent(plan.source.name).start_move(plan, ticket)
        except Unreachable as error:
            _LOG.warning("no answer to its start, it may have begun: %s", error.detail)
        except KvmoveError as error:
            await self._not_begun(task, error)
            raise
        except Exception:
            _LOG.exception("a fault of ours; whether the move began is found out by following it")

    async def _not_begun(self, task: Task, error: KvmoveError) -> None:
        error.vm_state = error.vm_state or task.vm_state
        state = TaskState.FAILED
        await self._book.change(task.id, state=state, problem=error.problem(), ended=now(), **_NOT_QUEUED)
        self._spawn(self._logs.keep(task.id), f"log of {task.id}")

    def _follow(self, task_id: str, plan: MovePlan) -> None:
        with logged_as(plan):
            self._spawn(self._follow_to_end(task_id, plan), f"follow {task_id}")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _follow_to_end(self, task_id: str, plan: MovePlan) -> None:
        """A fault of ours must not leave a task running for ever: it is told in the log and following goes on."""
        while not self._book.get(task_id).ended_state:
            try:
                await self._follower.follow(task_id, plan)
            except Exception:
                _LOG.exception("following move %s failed; trying again", task_id)
                await asyncio.sleep(_AFTER_FAULT_SECONDS)
        await self._turns.slots.settle(task_id)
        self._moved_on.set()
        await self._logs.keep(task_id)


def _task(plan: MovePlan, request: MoveRequest, by: str, parent: str | None) -> Task:
    return Task(
        id=plan.move_id,
        kind="move",
        vm=plan.vm.name,
        source=plan.source.name,
        destination=plan.destination.name,
        state=TaskState.QUEUED,
        created=now(),
        started_by=by,
        parent=parent,
        priority=request.priority,
        request=request,
        plan=plan,
        vm_state=f"{plan.power} on {plan.source.name}",
    )
