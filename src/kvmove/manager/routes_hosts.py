"""REST: hosts and datastores."""

from fastapi import APIRouter

from kvmove.manager.inventory import Inventory
from kvmove.model.host import HostDatastore, HostStatus


def hosts_router(inventory: Inventory) -> APIRouter:
    """`/hosts` and `/datastores`; both are as the agents say at this moment."""
    router = APIRouter(tags=["hosts"])

    @router.get("/hosts")
    async def list_hosts() -> list[HostStatus]:
        await inventory.refresh()
        return inventory.hosts()

    @router.get("/hosts/{name}")
    async def show_host(name: str) -> HostStatus:
        await inventory.refresh()
        return inventory.host(name)

    @router.get("/datastores")
    async def list_datastores() -> list[HostDatastore]:
        await inventory.refresh()
        return [
            HostDatastore(host=host.name, **dict(store))
            for host in inventory.hosts()
            if host.reachable and host.info is not None
            for store in host.info.datastores
        ]

    return router
