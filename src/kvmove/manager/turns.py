"""The queue of moves over the book of tasks: whose turn it is, and what the others are told that they wait for.

The order is `admission.queue`'s, the units `admission.costs`'. What is written nowhere else is kept here only for the
moment: which tasks have their turn and do not run yet. All the rest is in the book, so a restart loses nothing. What
other managers' moves take is asked for when a turn has come (`move_slots`): between managers there is no line.

Invariant: a task that is given its turn counts as running until `over` is called for it. Deliberately not here: what
beginning a move is.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from kvmove.admission.costs import Limits, claims
from kvmove.admission.queue import Place, Running, Waiting, fits, line
from kvmove.errors import NotFound
from kvmove.manager.inventory import Inventory
from kvmove.manager.move_slots import MoveSlots
from kvmove.manager.task_book import TaskBook
from kvmove.model.host import HostInfo
from kvmove.model.move import Claim, MovePlan, MoveRequest
from kvmove.model.schedule import opens
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import VmState
from kvmove.registry.slots import Slots

_LOG = logging.getLogger(__name__)

POSTPONED_SECONDS = 3.0

_NO_LIMITS_GIVEN = Limits()


def local_now() -> datetime:
    """The present by the manager's clock and in its zone, in which HH:MM is meant."""
    return datetime.now(UTC).astimezone()


class Turns:
    """The queue of this manager. Lives on one event loop. `clock` gives the time in the manager's zone; `slots` are
    what all managers share, None where there is one manager only."""

    def __init__(
        self,
        book: TaskBook,
        inventory: Inventory,
        limits: Limits = _NO_LIMITS_GIVEN,
        clock: Callable[[], datetime] = local_now,
        slots: Slots | None = None,
    ) -> None:
        self.clock = clock
        self.slots = MoveSlots(book, slots)
        self._book = book
        self._inventory = inventory
        self._limits = limits
        self._given: set[str] = set()
        self._postponed: dict[str, tuple[float, str]] = {}
        self._lock = asyncio.Lock()

    def claims(self, plan: MovePlan) -> tuple[Claim, ...]:
        """What the move takes, by what its hosts said last."""
        infos: dict[str, HostInfo] = {}
        for name in (plan.source.name, plan.destination.name):
            with contextlib.suppress(NotFound):  # it is not there any more: the check before the start says so
                host = self._inventory.host(name)
                infos |= {name: host.info} if host.info is not None else {}
        return claims(plan, infos, self._limits)

    def has_room(self, task_id: str, wanted: tuple[Claim, ...]) -> bool:
        """Whether a task may take that, beside all others that run."""
        return fits(wanted, self._running(without=task_id))

    async def would_wait(self, request: MoveRequest, plan: MovePlan) -> str:
        """What the move would wait for if it were asked for now, the last of its priority; empty if for nothing, or for
        the time that the request names."""
        if request.at is not None or request.window is not None:
            return ""
        wanted = self.claims(plan)
        new = Waiting(plan.move_id, plan.vm.name, request.priority, self.clock(), wanted)
        queued = [_waiting(task) for task in self._waiting() if not self._held(task)]
        reasons = {place.id: place.reason for place in self._line([*queued, new])}
        return reasons[new.id] or await self.slots.short(wanted)

    def postpone(self, task_id: str, reason: str) -> None:
        """Its turn came and could not be used: hold it for a moment, with the reason."""
        self._postponed[task_id] = (time.monotonic() + POSTPONED_SECONDS, reason)

    def over(self, task_id: str) -> None:
        """The task that was given its turn runs now, waits again, or has ended: its state in the book says which."""
        self._given.discard(task_id)

    async def advance(self, begin: Callable[[str], None]) -> None:
        """Give all whose turn it is their turn, by `begin`, and tell the others their place."""
        async with self._lock:
            queued = self._waiting()
            held = {task.id: reason for task in queued if (reason := self._held(task))}
            places = self._line([_waiting(task) for task in queued if task.id not in held])
            for place in places:
                if not place.reason:
                    self._given.add(place.id)
                    begin(place.id)
            for place in places:
                if place.reason:
                    await self._tell(place.id, place.position, place.reason)
            for task_id, reason in held.items():
                await self._tell(task_id, None, reason)

    def _waiting(self) -> list[Task]:
        return [task for task in self._book.queued() if task.id not in self._given]

    def _line(self, waiting: list[Waiting]) -> list[Place]:
        return line(self._running(), waiting, self.clock(), timedelta(minutes=self._limits.patience_minutes))

    def _running(self, without: str = "") -> list[Running]:
        return [
            Running(task.vm, task.claims)
            for task in reversed(self._book.unended())
            if task.id != without and (task.state is TaskState.RUNNING or task.id in self._given)
        ]

    async def _tell(self, task_id: str, position: int | None, reason: str) -> None:
        task = self._book.get(task_id)
        if task.queue_reason != reason:
            _LOG.info("task %s is queued: %s", task_id, reason)
        await self._book.change(task_id, position=position, queue_reason=reason, vm_state=self._vm_state(task))

    def _vm_state(self, task: Task) -> str:
        """Where the VM is, which may change while its move waits; as it was told last if nobody knows."""
        if task.plan is not None:
            for vm in self._inventory.vms():
                if vm.definition.uuid == task.plan.vm.uuid and vm.state is not VmState.UNKNOWN:
                    return f"{vm.state} on {vm.host}"
        return task.vm_state

    def _held(self, task: Task) -> str:
        """Why the task is not in the line at all; empty if it is."""
        now, request = self.clock(), task.request
        if request is not None and request.at is not None:
            moment = datetime.fromisoformat(request.at)
            if moment > now:
                return f"waits for its time, {moment.astimezone(now.tzinfo):%Y-%m-%d %H:%M}"
        if request is not None and request.window is not None:
            opening = opens(request.window, now)
            if opening is not None:
                return f"waits for its window {request.window}, which opens at {opening:%Y-%m-%d %H:%M}"
        until, reason = self._postponed.get(task.id, (0.0, ""))
        if time.monotonic() < until:
            return reason
        self._postponed.pop(task.id, None)
        return next((said for name in {task.source: 0, task.destination: 0} if (said := self._silent(name))), "")

    def _silent(self, name: str) -> str:
        try:
            host = self._inventory.host(name)
        except NotFound:
            return ""  # its turn will say so
        return "" if host.reachable else f"waits for {name}, which does not answer: {host.reason}"


def _waiting(task: Task) -> Waiting:
    since = datetime.fromisoformat(task.created)
    if task.request is not None and task.request.at is not None:
        since = max(since, datetime.fromisoformat(task.request.at))
    return Waiting(task.id, task.vm, task.priority, since, task.claims)
