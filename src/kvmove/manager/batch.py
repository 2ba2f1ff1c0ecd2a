"""Several moves as children of one task, in order, so many at a time.

Invariant: a child that the checks refuse while others run is tried again when one of them has ended (it may wait for
memory that this frees); refused with none running, it has failed. When this is cancelled nothing new starts, children
that are queued end, and those that can still be undone are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from kvmove.errors import Busy, CheckFailed, KvmoveError, from_problem
from kvmove.manager.moves import Moves
from kvmove.manager.task_book import TaskBook
from kvmove.model.move import MoveRequest
from kvmove.model.task import Task, TaskState

_RETRY_SECONDS = 1.0


class Outcome(NamedTuple):
    """What became of one request: `error` is None when it was done; `task` is empty when none was begun."""

    request: MoveRequest
    task: str = ""
    error: KvmoveError | None = None


class Batch:
    """The children of the task `parent`, started by `by`."""

    def __init__(self, moves: Moves, book: TaskBook, parent: str, by: str) -> None:
        self._moves = moves
        self._book = book
        self.parent = parent
        self._by = by
        self._stop = asyncio.Event()
        self.outcomes: list[Outcome] = []

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    async def adopt(self) -> None:
        """Wait for children that an earlier life of the manager began."""
        for child in self._children():
            await self._ended(child.id)

    async def stop(self) -> None:
        """Start nothing more, and undo what can be undone."""
        self._stop.set()
        for child in self._children():
            with suppress(KvmoveError):  # past the point where it can be undone, or its host is silent: it is awaited
                await self._moves.cancel(child)

    async def run(
        self,
        requests: Sequence[MoveRequest],
        at_once: int,
        told: Callable[[Outcome], Awaitable[None]] | None = None,
    ) -> list[Outcome]:
        """Do these; `told` hears of each as it ends. The outcomes are in the order in which they came."""
        waiting, running = deque(requests), set[asyncio.Task[Outcome]]()
        found: list[Outcome] = []

        async def ends(outcome: Outcome) -> None:
            found.append(outcome)
            self.outcomes.append(outcome)
            if told is not None:
                await told(outcome)

        try:
            while running or (waiting and not self.stopped):
                await self._fill(waiting, running, at_once, ends)
                if running:
                    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    running -= done
                    for one in done:
                        await ends(one.result())
        finally:
            for one in running:
                one.cancel()
        return found

    async def _fill(
        self,
        waiting: deque[MoveRequest],
        running: set[asyncio.Task[Outcome]],
        at_once: int,
        ends: Callable[[Outcome], Awaitable[None]],
    ) -> None:
        while waiting and len(running) < at_once and not self.stopped:
            try:
                task = await self._moves.start(waiting[0], by=self._by, parent=self.parent)
            except KvmoveError as error:
                if running and isinstance(error, Busy | CheckFailed):
                    return
                await ends(Outcome(waiting.popleft(), error=error))
                continue
            running.add(asyncio.create_task(self._outcome(waiting.popleft(), task.id)))
            if self.stopped:  # asked for while it was being started, so that it was in no list of children
                await self.stop()

    async def _outcome(self, request: MoveRequest, task_id: str) -> Outcome:
        ended = await self._ended(task_id)
        error = None if ended.state is TaskState.SUCCEEDED else from_problem(ended.problem or {})
        return Outcome(request, task_id, error)

    async def _ended(self, task_id: str) -> Task:
        while not (task := self._book.get(task_id)).ended_state:
            async for _ in self._book.watch(task_id, task.revision):
                pass
            await asyncio.sleep(0 if self._book.get(task_id).ended_state else _RETRY_SECONDS)
        return task

    def _children(self) -> list[Task]:
        """Queued ones too: they would begin when nobody waits for them any more."""
        return [task for task in self._book.unended() if task.parent == self.parent]
