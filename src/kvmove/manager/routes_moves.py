"""REST: moves, checked and started."""

from fastapi import APIRouter, Response

from kvmove.manager.moves import Moves
from kvmove.model.move import MoveCheck, MoveRequest
from kvmove.model.task import Task


def moves_router(moves: Moves) -> APIRouter:
    """`/moves:check` tells what a move would do and changes nothing; `/moves` starts it."""
    router = APIRouter(tags=["moves"])

    @router.post("/moves:check")
    async def check_move(request: MoveRequest) -> MoveCheck:
        return await moves.check(request)

    @router.post("/moves", status_code=202)
    async def start_move(request: MoveRequest, response: Response) -> Task:
        task = await moves.start(request)
        response.headers["Location"] = f"/api/v1/tasks/{task.id}"
        return task

    return router
