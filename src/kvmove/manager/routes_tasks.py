"""REST: tasks, and each task's events as a stream (server-sent events)."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from kvmove.manager.moves import Moves
from kvmove.manager.peer import peer_of
from kvmove.manager.task_book import TaskBook
from kvmove.model.log import LogLine
from kvmove.model.task import Task, TaskState
from kvmove.pki.identity import Identity


def tasks_router(book: TaskBook, moves: Moves) -> APIRouter:
    """`/tasks`; `{task}` is an id or the beginning of one."""
    router = APIRouter(prefix="/tasks", tags=["tasks"])

    def find(task: str) -> Task:
        return book.get(task)

    @router.get("")
    async def list_tasks(
        state: Annotated[tuple[TaskState, ...], Query()] = (),
        vm: str | None = None,
        host: str | None = None,
        limit: Annotated[int | None, Query(ge=1)] = None,
    ) -> list[Task]:
        """The tasks, newest first, at most `limit`: those in one of the states, of the VM (its name or UUID), that have
        the host at either end. `state` may be repeated."""
        found = (task for task in book.all() if not state or task.state in state)
        return [task for task in found if _is_of(task, vm) and host in (None, task.source, task.destination)][:limit]

    @router.get("/{task}")
    async def show_task(found: Annotated[Task, Depends(find)]) -> Task:
        return found

    @router.get("/{task}/events", response_class=EventSourceResponse)
    async def task_events(
        found: Annotated[Task, Depends(find)], last_event_id: Annotated[int, Header()] = -1
    ) -> AsyncIterator[ServerSentEvent]:
        """The task now and at each change, `event: task`, `id:` its revision. Ends when the task has ended.

        With `Last-Event-ID`, states up to that revision are not sent again. FastAPI adds a comment every 15 s.
        """
        async for task in book.watch(found.id, last_event_id):
            yield ServerSentEvent(event="task", id=str(task.revision), raw_data=task.model_dump_json())

    @router.post("/{task}:cancel")
    async def cancel_task(found: Annotated[Task, Depends(find)]) -> Task:
        """End a queued task at once, or ask the source to stop: then the task ends when the source is free again."""
        return await moves.cancel(found)

    @router.post("/{task}:retry", status_code=202)
    async def retry_task(found: Annotated[Task, Depends(find)], peer: Annotated[Identity, Depends(peer_of)]) -> Task:
        """Ask once more for what an ended task was asked for; the answer is the new task."""
        return await moves.retry(found, by=peer.name)

    @router.get("/{task}/log")
    async def task_log(found: Annotated[Task, Depends(find)]) -> list[LogLine]:
        """What the manager and both agents have logged of it, oldest first."""
        return await moves.log(found)

    return router


def _is_of(task: Task, vm: str | None) -> bool:
    return vm is None or vm == task.vm or (task.plan is not None and vm.lower() == str(task.plan.vm.uuid))
