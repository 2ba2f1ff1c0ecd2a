"""REST: an operator's words on a running task."""

from typing import Annotated

from fastapi import APIRouter, Depends

from kvmove.manager.peer import peer_of
from kvmove.manager.steering import TaskSteering
from kvmove.manager.task_book import TaskBook
from kvmove.model.task import Task, TaskChange
from kvmove.pki.identity import Identity


def steering_router(book: TaskBook, steering: TaskSteering) -> APIRouter:
    """`/tasks/{task}:VERB`; `{task}` is an id or the beginning of one. Who says it is told in the task."""
    router = APIRouter(prefix="/tasks", tags=["tasks"])

    def find(task: str) -> Task:
        return book.get(task)

    found = Depends(find)
    peer = Depends(peer_of)

    @router.post("/{task}:pause")
    async def pause_task(found: Annotated[Task, found], peer: Annotated[Identity, peer]) -> Task:
        """Hold the copy; what is copied stays in step."""
        return await steering.say(found, "pause", peer.name)

    @router.post("/{task}:resume")
    async def resume_task(found: Annotated[Task, found], peer: Annotated[Identity, peer]) -> Task:
        """Go on with a paused copy."""
        return await steering.say(found, "resume", peer.name)

    @router.post("/{task}:switchover")
    async def switch_task_over(found: Annotated[Task, found], peer: Annotated[Identity, peer]) -> Task:
        """Let a move switch over that was started with `switchover` other than `auto`."""
        return await steering.say(found, "switchover", peer.name)

    @router.patch("/{task}")
    async def change_task(found: Annotated[Task, found], change: TaskChange, peer: Annotated[Identity, peer]) -> Task:
        """Change what may be changed about a task that has not ended; what the body leaves out stays."""
        return await steering.change(found, change, peer.name)

    return router
