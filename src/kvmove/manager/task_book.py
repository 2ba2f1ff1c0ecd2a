"""The book of tasks: who asks sees the present state, who watches sees every change that is still of interest.

Invariants:
- A task's revision grows with each change and never falls, not over a restart either: a change that is not on disk
  is at most `_UNSAVED` revisions ahead of the disk, and a restart skips that many.
- An ended task never changes. The `keep` that ended last stay, queued and running ones always do.
- A watcher that is slow misses states in between, never the last one.

What a task's state should be is not decided here: see `moves` and `verdict`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from kvmove.errors import InvalidInput, NotFound
from kvmove.manager.task_store import TaskStore
from kvmove.model.log import LogLine
from kvmove.model.task import Task, TaskState

_UNSAVED = 100


class TaskBook:
    """All tasks, in memory and on disk. Lives on one event loop; `open` it there."""

    def __init__(self, store: TaskStore, keep: int = 1000) -> None:
        self._store = store
        self._keep = keep
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="tasks")
        self._tasks: dict[str, Task] = {}
        self._unended: dict[str, Task] = {}
        self._saved: dict[str, Task] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._closing = False
        self._heard: list[Callable[[Task], None]] = []

    def listen(self, heard: Callable[[Task], None]) -> None:
        """Call `heard` with every new task and every change, on the event loop; it must not raise."""
        self._heard.append(heard)

    def _tell(self, task: Task) -> None:
        for heard in self._heard:
            heard(task)

    async def open(self) -> Self:
        """Read what is on disk."""
        loop = asyncio.get_running_loop()
        for task in await loop.run_in_executor(self._writer, self._store.load):
            revision = task.revision if task.ended_state else task.revision + _UNSAVED + 1
            self._put(task.model_copy(update={"revision": revision}))
        return self

    def end_watches(self) -> None:
        """Let all watchers end, now and from now on. No task changes its state by this."""
        self._closing = True
        for event in self._changed.values():
            event.set()

    async def close(self) -> None:
        """End all watchers and close the file."""
        self.end_watches()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer, self._store.close)
        self._writer.shutdown()

    def all(self) -> list[Task]:
        """All tasks, newest first."""
        return sorted(self._tasks.values(), key=_age, reverse=True)

    def unended(self) -> list[Task]:
        """The tasks that are queued or running, newest first."""
        return sorted(self._unended.values(), key=_age, reverse=True)

    def queued(self) -> list[Task]:
        """The tasks that wait for their turn or their time, oldest first."""
        return [task for task in reversed(self.unended()) if task.state is TaskState.QUEUED]

    def running(self) -> list[Task]:
        """The tasks that run, newest first."""
        return [task for task in self.unended() if task.state is TaskState.RUNNING]

    def get(self, text: str) -> Task:
        """The task with the id `text`, or the only one whose id begins so.

        :raise NotFound: none.
        :raise InvalidInput: more than one begins so.
        """
        if text in self._tasks:
            return self._tasks[text]
        found = [task for key, task in self._tasks.items() if text and key.startswith(text)]
        if len(found) > 1:
            raise InvalidInput(f"{len(found)} tasks begin with {text!r}", hint="write more of the id")
        if not found:
            raise NotFound(f"there is no task {text!r}", hint="kvmove task list shows them all")
        return found[0]

    async def add(self, task: Task) -> Task:
        """Take up a new task; it is on disk when this returns. If it cannot be written it was never there."""
        await self._save(task)
        self._put(task)
        self._tell(task)
        return task

    async def change(self, task_id: str, **fields: Any) -> Task:
        """Change fields of a task and tell the watchers. Nothing happens when nothing differs, or when it has ended.

        Each change of the state, the phase or the request is on disk when this returns; of a percentage, not always.
        One that cannot be written is taken back.
        """
        task = self._tasks[task_id]
        if task.ended_state or all(getattr(task, name) == value for name, value in fields.items()):
            return task
        before, task = task, task.model_copy(update={**fields, "revision": task.revision + 1})
        self._put(task)
        self._changed.pop(task_id, asyncio.Event()).set()
        self._tell(task)
        if self._matters(task):
            await self._save_or_take_back(task, before)
        if task.ended_state:
            await self._forget_old()
        return task

    async def watch(self, task_id: str, after: int = -1) -> AsyncIterator[Task]:
        """The task as it is (when newer than revision `after`) and then each change, until it ends or `close`."""
        if after > self.get(task_id).revision:
            after = -1
        while not self._closing and task_id in self._tasks:
            changed = self._changed.setdefault(task_id, asyncio.Event())
            task = self._tasks[task_id]
            if task.revision > after:
                after = task.revision
                yield task
            elif task.ended_state:
                return
            else:
                await changed.wait()

    async def keep_log(self, task_id: str, lines: list[LogLine]) -> None:
        """Put the log of an ended task beside it; it goes with it."""
        if task_id in self._tasks:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._store.save_log, task_id, lines)

    async def log(self, task_id: str) -> list[LogLine] | None:
        """What was kept of the task's log; None: nothing was."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._store.log, task_id)

    async def _save_or_take_back(self, task: Task, before: Task) -> None:
        try:
            await self._save(task)
        except Exception:
            if self._tasks[task.id] is task:
                self._put(before.model_copy(update={"revision": task.revision + 1}))
            raise

    def _put(self, task: Task) -> None:
        self._tasks[task.id] = task
        if task.ended_state:
            self._unended.pop(task.id, None)
        else:
            self._unended[task.id] = task

    async def _forget_old(self) -> None:
        """By their ends: one that ran long and ended just now is not old, whoever watches it sees its end."""
        if len(self._tasks) - len(self._unended) <= self._keep:
            return
        ended = [task for task in self._tasks.values() if task.ended_state]
        ended.sort(key=lambda task: (task.ended or task.created, task.id), reverse=True)
        for task in ended[self._keep :]:
            self._tasks.pop(task.id, None)
            self._saved.pop(task.id, None)
            await asyncio.get_running_loop().run_in_executor(self._writer, self._store.delete, task.id)

    def _matters(self, task: Task) -> bool:
        saved = self._saved.get(task.id)
        if saved is None or task.revision - saved.revision >= _UNSAVED:
            return True
        return _lasting(task) != _lasting(saved)

    async def _save(self, task: Task) -> None:
        self._saved[task.id] = task
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._store.save, task)
        except Exception:
            self._saved.pop(task.id, None)
            raise


def _age(task: Task) -> tuple[str, str]:
    return task.created, task.id


def _lasting(task: Task) -> tuple[object, ...]:
    """What a restart must not lose."""
    phase = task.progress.phase if task.progress else ""
    return task.state, phase, task.vm_state, task.priority, task.request, task.plan, task.notes
