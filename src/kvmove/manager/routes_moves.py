"""REST: moves, checked and started."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from kvmove.manager.balancing import Balancer
from kvmove.manager.moves import Moves
from kvmove.manager.peer import peer_of
from kvmove.model.move import MoveCheck, MoveRequest
from kvmove.model.probe import NetworkReport
from kvmove.model.ranking import MoveRanking
from kvmove.model.task import Task
from kvmove.pki.identity import Identity


def moves_router(moves: Moves, balancer: Balancer) -> APIRouter:
    """`/moves:check` tells what a move would do, `/moves:rank` where it could go, `/hosts/A:check-network?to=B` what
    reaches what between two hosts; all change nothing. `/moves` starts a move. To host `auto` means: to the best."""
    router = APIRouter(tags=["moves"])

    @router.post("/moves:check")
    async def check_move(request: MoveRequest, forecast: bool = False) -> MoveCheck:
        return await moves.check(await balancer.resolve(request), forecast=forecast)

    @router.post("/moves:rank")
    async def rank_hosts(request: MoveRequest) -> MoveRanking:
        return await moves.rank(request)

    @router.post("/hosts/{name}:check-network")
    async def check_network(name: str, to: str) -> NetworkReport:
        return await moves.checks.network(name, to)

    @router.post("/moves", status_code=202)
    async def start_move(request: MoveRequest, response: Response, peer: Annotated[Identity, Depends(peer_of)]) -> Task:
        """Start it, or queue it where the limits leave no room for it yet: the answer is its task."""
        task = await moves.start(await balancer.resolve(request), by=peer.name)
        response.headers["Location"] = f"/api/v1/tasks/{task.id}"
        return task

    return router
