"""The manager's application: its routes, the gate before them and the handlers behind them.

It is put together here and nowhere else; it opens no socket, no file and no connection (see `daemon`).
"""

from dataclasses import dataclass

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, Field

import kvmove
from kvmove.manager.access import Access
from kvmove.manager.answers import add_handlers
from kvmove.manager.follow import now
from kvmove.manager.gate import Gate
from kvmove.manager.inventory import Inventory
from kvmove.manager.moves import Moves
from kvmove.manager.observed import Observed
from kvmove.manager.page import page_router
from kvmove.manager.peer import peer_of
from kvmove.manager.placement_parts import PlacementParts
from kvmove.manager.registry_engine import Engine
from kvmove.manager.registry_routes import registry_router
from kvmove.manager.routes_access import access_router
from kvmove.manager.routes_balance import balance_router
from kvmove.manager.routes_events import events_router
from kvmove.manager.routes_hosts import hosts_router
from kvmove.manager.routes_maintenance import maintenance_router
from kvmove.manager.routes_moves import moves_router
from kvmove.manager.routes_observed import log_router, metrics_router, ready_router
from kvmove.manager.routes_pki import pki_router
from kvmove.manager.routes_sessions import sessions_router
from kvmove.manager.routes_steering import steering_router
from kvmove.manager.routes_tasks import tasks_router
from kvmove.manager.routes_vms import vms_router
from kvmove.manager.steering import TaskSteering
from kvmove.manager.task_book import TaskBook


@dataclass(frozen=True)
class Parts:
    """What the routes speak to."""

    inventory: Inventory
    registry: Engine
    book: TaskBook
    moves: Moves
    access: Access
    placement: PlacementParts
    observed: Observed


class Health(BaseModel):
    """The answer of `/healthz`: that there is one says that the manager serves."""

    status: str = "ok"
    version: str = kvmove.__version__
    time: str = Field(default_factory=now)


def create_app(parts: Parts) -> FastAPI:
    """The application over `parts`. Requests must come through `peer.IdentifyingProtocol`, or all are refused."""
    app = FastAPI(title="kvmove", version=kvmove.__version__, docs_url=None, redoc_url=None)
    api = APIRouter(prefix="/api/v1")
    api.include_router(hosts_router(parts.inventory))
    api.include_router(vms_router(parts.inventory, parts.placement.balancer))
    api.include_router(moves_router(parts.moves, parts.placement.balancer))
    api.include_router(tasks_router(parts.book, parts.moves))
    api.include_router(steering_router(parts.book, TaskSteering(parts.inventory, parts.book, parts.moves)))
    api.include_router(access_router(parts.access, parts.registry, parts.book, parts.placement.maintenance))
    api.include_router(maintenance_router(parts.placement.maintenance))
    api.include_router(balance_router(parts.placement.balancer))
    api.include_router(events_router(parts.observed.events))
    api.include_router(log_router(parts.observed, parts.inventory))
    api.include_router(sessions_router(parts.access))
    app.include_router(api)
    app.include_router(page_router())
    app.include_router(pki_router(parts.access))
    app.include_router(metrics_router(parts.observed.metrics))
    app.include_router(ready_router(parts.registry))
    app.include_router(registry_router(parts.registry, peer_of))
    app.add_api_route("/healthz", _health, tags=["health"])
    add_handlers(app)
    access = parts.access
    app.add_middleware(Gate, access=access)
    return app


async def _health() -> Health:
    return Health()
