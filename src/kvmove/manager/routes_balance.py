"""REST: balancing, and the rules on where VMs run."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from kvmove.manager.balancing import Balancer
from kvmove.manager.peer import peer_of
from kvmove.model.placement import Applied, ApplyRequest, BalancePlan, BalanceStatus, Rule
from kvmove.model.task import Task
from kvmove.pki.identity import Identity


def balance_router(balancer: Balancer) -> APIRouter:
    """`/balance` and `/balance/plan` look, `/balance:apply` does; `/rules` are kept by the manager."""
    router = APIRouter(tags=["balance"])

    @router.get("/balance")
    async def balance_status() -> BalanceStatus:
        return await balancer.status()

    @router.get("/balance/plan")
    async def balance_plan() -> BalancePlan:
        return await balancer.plan()

    @router.get("/balance/history")
    async def balance_history() -> list[Applied]:
        return balancer.history()

    @router.post("/balance:apply", status_code=202)
    async def apply(request: ApplyRequest, response: Response, peer: Annotated[Identity, Depends(peer_of)]) -> Task:
        task = await balancer.apply(request.ids, peer.name)
        response.headers["Location"] = f"/api/v1/tasks/{task.id}"
        return task

    @router.get("/rules")
    async def list_rules() -> list[Rule]:
        return balancer.rules()

    @router.post("/rules", status_code=201)
    async def add_rule(rule: Rule) -> Rule:
        return await balancer.add_rule(rule)

    @router.delete("/rules/{name}", status_code=204)
    async def remove_rule(name: str) -> None:
        await balancer.remove_rule(name)

    return router
