"""REST: figures for Prometheus, the last log lines, and whether the manager can work."""

from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel

from kvmove.logs import LoggedFields
from kvmove.manager.inventory import Inventory
from kvmove.manager.metrics import ManagerMetrics
from kvmove.manager.observed import Observed
from kvmove.registry.interface import Registry

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NO_VM = UUID(int=0)


class Ready(BaseModel):
    """The answer of `/readyz`: the registry answers, so VMs can be started and moved."""

    status: str = "ok"


def metrics_router(metrics: ManagerMetrics) -> APIRouter:
    """`/metrics`: the cluster as the manager sees it, and the manager itself."""
    router = APIRouter(tags=["metrics"])

    @router.get("/metrics", response_class=Response)
    async def manager_metrics() -> Response:
        return Response(metrics.render(), media_type=METRICS_TYPE)

    return router


def log_router(observed: Observed, inventory: Inventory) -> APIRouter:
    """`/log` and what an agent has of the kind: the manager fetches it, as agents answer to nobody else."""
    router = APIRouter(tags=["metrics"])

    @router.get("/log")
    async def manager_log() -> list[LoggedFields]:
        """The last lines of the manager's log, oldest first."""
        return list(observed.recent.lines)

    @router.get("/hosts/{name}/log")
    async def agent_log(name: str) -> list[LoggedFields]:
        """The last lines of an agent's log."""
        return await inventory.agent(name).log()

    @router.get("/hosts/{name}/metrics", response_class=Response)
    async def agent_metrics(name: str) -> Response:
        """An agent's own figures."""
        return Response(await inventory.agent(name).metrics(), media_type=METRICS_TYPE)

    return router


def ready_router(registry: Registry) -> APIRouter:
    """`/readyz`."""
    router = APIRouter(tags=["health"])

    @router.get("/readyz")
    async def ready() -> Ready:
        """Asks the registry. A problem with status 503 when it does not answer."""
        await registry.get(_NO_VM)
        return Ready()

    return router
