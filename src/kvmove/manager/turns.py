"""The queue of moves over the book of tasks: whose turn it is, and what the others are told that they wait for.

The order is `admission.queue`'s, the units `admission.costs`'. What is written nowhere else is kept here only for the
moment: which tasks have their turn and do not run yet. All the rest is in the book, so a restart loses nothing.

Invariant: a task that is given its turn counts as running until `over` is called for it. Deliberately not here: what
beginning a move is.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from kvmove.admission.costs import Limits, claims
from kvmove.admission.queue import Running, Waiting, fits, line
from kvmove.errors import NotFound
from kvmove.manager.inventory import Inventory
from kvmove.manager.task_book import TaskBook
from kvmove.model.move import Claim, MovePlan
from kvmove.model.schedule import opens
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import VmState

_LOG = logging.getLogger(__name__)

POSTPONED_SECONDS = 3.0

_NO_LIMITS_GIVEN = Limits()


def local_now() -> datetime:
    """The present by the manager's clock and in its zone, in which HH:MM is meant."""
    return datetime.now(UTC).astimezone()


class Turns:
    """The queue of this manager. Lives on one event loop. `clock` gives the time in the manager's zone."""

    def __init__(
        self,
        book: TaskBook,
        inventory: Inventory,
        limits: Limits = _NO_LIMITS_GIVEN,
        clock: Callable[[], datetime] = local_now,
    ) -> None:
        self.clock = clock
        self._book = book
        self._inventory = inventory
        self._limits = limits
        self._given: set[str] = set()
        self._postponed: dict[str, tuple[float, str]] = {}
        self._lock = asyncio.Lock()

    def claims(self, plan: MovePlan) -> tuple[Claim, ...]:
        """What the move takes, by what its hosts said last."""
        infos = {host.name: host.info for host in self._inventory.hosts() if host.info is not None}
        return claims(plan, infos, self._limits)

    def has_room(self, task_id: str, wanted: tuple[Claim, ...]) -> bool:
        """Whether a task may take that, beside all others that run."""
        return fits(wanted, self._running(without=task_id))

    def postpone(self, task_id: str, reason: str) -> None:
        """Its turn came and could not be used: hold it for a moment, with the reason."""
        self._postponed[task_id] = (time.monotonic() + POSTPONED_SECONDS, reason)

    def over(self, task_id: str) -> None:
        """The task that was given its turn runs now, waits again, or has ended: its state in the book says which."""
        self._given.discard(task_id)

    async def advance(self, begin: Callable[[str], None]) -> None:
        """Give all whose turn it is their turn, by `begin`, and tell the others their place."""
        async with self._lock:
            queued = [task for task in self._book.queued() if task.id not in self._given]
            held = {task.id: reason for task in queued if (reason := self._held(task))}
            waiting = [_waiting(task) for task in queued if task.id not in held]
            patience = timedelta(minutes=self._limits.patience_minutes)
            places = line(self._running(), waiting, self.clock(), patience)
            for place in places:
                if not place.reason:
                    self._given.add(place.id)
                    begin(place.id)
            for place in places:
                if place.reason:
                    await self._tell(place.id, place.position, place.reason)
            for task_id, reason in held.items():
                await self._tell(task_id, None, reason)

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
