"""REST: maintenance of hosts."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from kvmove.manager.maintenance import Maintenance
from kvmove.manager.peer import peer_of
from kvmove.model.host import HostStatus
from kvmove.model.placement import EvacuationPlan, MaintenanceRequest
from kvmove.model.task import Task
from kvmove.pki.identity import Identity


def maintenance_router(maintenance: Maintenance) -> APIRouter:
    """`:checkMaintenance` tells what `:enterMaintenance` would do; `:exitMaintenance` lets the host take VMs again."""
    router = APIRouter(prefix="/hosts", tags=["hosts"])

    @router.post("/{name}:checkMaintenance")
    async def check_maintenance(name: str, request: MaintenanceRequest) -> EvacuationPlan:
        return await maintenance.plan(name, request)

    @router.post("/{name}:enterMaintenance", status_code=202)
    async def enter_maintenance(
        name: str, request: MaintenanceRequest, response: Response, peer: Annotated[Identity, Depends(peer_of)]
    ) -> Task:
        task = await maintenance.enter(name, request, peer.name)
        response.headers["Location"] = f"/api/v1/tasks/{task.id}"
        return task

    @router.post("/{name}:exitMaintenance")
    async def exit_maintenance(name: str) -> HostStatus:
        return await maintenance.exit(name)

    return router
