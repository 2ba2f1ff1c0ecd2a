"""Follows a running move to its end and writes what it sees into the task.

The source's agent tells it all; while it is silent it is asked again, and the registry and the destination's agent are
heard too (`verdict`). Following only reads: a manager that dies here changes nothing about the move, and the next one
picks the task up where it is.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime

from kvmove.errors import KvmoveError, NotFound, Unreachable
from kvmove.log_context import entered_phase
from kvmove.manager.inventory import Inventory
from kvmove.manager.task_book import TaskBook
from kvmove.manager.verdict import Evidence, Verdict, judge, told_by_source, whereabouts
from kvmove.model.move import MovePlan, MoveStatus
from kvmove.model.ownership import Ownership
from kvmove.model.task import Task
from kvmove.model.vm import VmStatus
from kvmove.registry.interface import Registry

_LOG = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
STALL_SECONDS = 10.0
"""An event stream without a word for so long is checked by a plain question: a dead host closes no connection."""


class Follower:
    """Follows moves, each by its own `follow`. `clock` gives seconds and never goes back."""

    def __init__(
        self, inventory: Inventory, registry: Registry, book: TaskBook, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inventory = inventory
        self._registry = registry
        self._book = book
        self._clock = clock

    async def follow(self, task_id: str, plan: MovePlan) -> Task:
        """Keep the task up to date until it has ended, and return it then."""
        heard = self._clock()
        while True:
            source_answers, said = await self._listen(task_id, plan)
            if said is None:
                heard = self._clock()
            else:
                await self._ask_others(task_id, plan, source_answers, self._clock() - heard, said)
            task = self._book.get(task_id)
            if task.ended_state:
                _LOG.info("task %s ended: %s, %s", task.id, task.state, task.vm_state)
                return task
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self, task_id: str, plan: MovePlan) -> tuple[bool, str | None]:
        """Take in what the source says, until it says no more; (whether it answers, why it has no word if so)."""
        source = self._inventory.agent(plan.source.name)
        try:
            async with aclosing(source.events(plan.move_id)) as events:
                while True:
                    try:
                        async with asyncio.timeout(STALL_SECONDS):
                            status = await anext(events)
                    except StopAsyncIteration:
                        return True, None
                    await self._take_in(task_id, status)
        except TimeoutError:
            return await self._ask_source(task_id, plan)
        except NotFound as error:
            return True, error.detail
        except KvmoveError as error:
            return False, error.detail

    async def _ask_source(self, task_id: str, plan: MovePlan) -> tuple[bool, str | None]:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await self._take_in(task_id, await self._inventory.agent(plan.source.name).move(plan.move_id))
        except NotFound as error:
            return True, error.detail
        except (KvmoveError, TimeoutError) as error:
            return False, str(error) or f"no answer within {STALL_SECONDS:.0f} s"
        return True, None

    async def _take_in(self, task_id: str, status: MoveStatus) -> None:
        entered_phase(status.progress.phase)
        fields = told_by_source(status, self._book.get(task_id).progress)
        if "state" in fields:
            fields["ended"] = now()
        await self._book.change(task_id, **fields)

    async def _ask_others(self, task_id: str, plan: MovePlan, source_answers: bool, seconds: float, said: str) -> None:
        """The source has no word on the move: hear the others, and end the task if they prove its end."""
        registry_answers, record = await self._ask_registry(plan)
        destination_answers, arrived = await self._ask_destination(plan)
        seen = Evidence(seconds, source_answers, registry_answers, record, destination_answers, arrived)
        verdict = judge(plan, seen)
        if verdict is not None:
            await self._end(task_id, verdict)
            return
        task = self._book.get(task_id)
        waiting = f"{plan.source.name} has no word on this move ({said}); asking again"
        progress = task.progress.model_copy(update={"message": waiting, "rate": 0}) if task.progress else None
        await self._book.change(task_id, progress=progress, vm_state=whereabouts(plan, seen))

    async def _ask_registry(self, plan: MovePlan) -> tuple[bool, Ownership | None]:
        try:
            return True, await self._registry.get(plan.vm.uuid)
        except Unreachable:
            return False, None

    async def _ask_destination(self, plan: MovePlan) -> tuple[bool, VmStatus | None]:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                vms = await self._inventory.agent(plan.destination.name).vms()
        except (KvmoveError, TimeoutError):
            return False, None
        return True, next((vm for vm in vms if vm.definition.uuid == plan.vm.uuid), None)

    async def _end(self, task_id: str, verdict: Verdict) -> None:
        problem = verdict.error.problem() if verdict.error else None
        await self._book.change(task_id, state=verdict.state, vm_state=verdict.vm_state, problem=problem, ended=now())


def now() -> str:
    """The present time as the API writes it: RFC 3339, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
