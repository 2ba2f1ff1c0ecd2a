"""The log of a move in one place: what the manager and both hosts' agents wrote of it, in the order of their clocks.

While a task runs its log is asked for anew each time; when it has ended it is kept beside the task. Invariant: reading
a log never fails because an agent is silent: a line says whose part is missing.
"""

import asyncio
from collections.abc import Iterable

from kvmove.errors import KvmoveError
from kvmove.manager.follow import now
from kvmove.manager.inventory import Inventory
from kvmove.manager.task_book import TaskBook
from kvmove.model.log import LogLine
from kvmove.model.task import Task
from kvmove.move_log import MoveLog

MANAGER = "manager"
ANSWER_SECONDS = 3.0
MOST_LINES = 1000


class TaskLogs:
    """The logs of all tasks. `kept` holds the manager's own lines."""

    def __init__(self, inventory: Inventory, book: TaskBook, kept: MoveLog) -> None:
        self._inventory = inventory
        self._book = book
        self._kept = kept

    async def of(self, task: Task) -> list[LogLine]:
        """The task's lines, oldest first."""
        stored = await self._book.log(task.id) if task.ended_state else None
        return await self._gather(task) if stored is None else stored

    async def keep(self, task_id: str) -> None:
        """The task has ended: put its log beside it."""
        await self._book.keep_log(task_id, await self._gather(self._book.get(task_id)))

    async def _gather(self, task: Task) -> list[LogLine]:
        move_id = task.plan.move_id if task.plan is not None else task.id
        parts = [self._kept.of(name) for name in {task.id: 0, move_id: 0}]
        if task.started is not None:
            hosts = {task.source: 0, task.destination: 0}
            parts += await asyncio.gather(*(self._ask(host, move_id) for host in hosts))
        return _in_order(line for part in parts for line in part)

    async def _ask(self, host: str, move_id: str) -> list[LogLine]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._inventory.agent(host).move_log(move_id)
        except (KvmoveError, TimeoutError) as error:
            said = f"{host} gave no log: {error or 'no answer in time'}"
            return [LogLine(time=now(), place=MANAGER, level="WARNING", text=said)]


def _in_order(lines: Iterable[LogLine]) -> list[LogLine]:
    return sorted(lines, key=lambda line: line.time)[-MOST_LINES:]
