"""REST: tasks, and each task's events as a stream (server-sent events)."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

from kvmove.manager.moves import Moves
from kvmove.manager.task_book import TaskBook
from kvmove.model.task import Task


def tasks_router(book: TaskBook, moves: Moves) -> APIRouter:
    """`/tasks`; `{task}` is an id or the beginning of one."""
    router = APIRouter(prefix="/tasks", tags=["tasks"])

    def find(task: str) -> Task:
        return book.get(task)

    @router.get("")
    async def list_tasks() -> list[Task]:
        return book.all()

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
        """Ask the source to stop; the answer is the task, which ends when the source is free again."""
        return await moves.cancel(found)

    return router
