"""The registry over HTTPS, for the agents: `/registry/v1`.

Invariant: an agent changes only what is its host's to change. It claims for itself, begins and aborts moves of VMs that
it owns, commits as the destination that the move names, gives back and releases what it owns. Nobody else may.

It knows neither how a peer is identified nor where records are kept; both are handed in. Errors leave as KvmoveErrors,
which the application turns into problem+json.
"""

from collections.abc import Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request

from kvmove.errors import NotAllowed
from kvmove.model.ownership import Ownership
from kvmove.pki.identity import Identity, Role, require
from kvmove.registry import ownership
from kvmove.registry.interface import Registry
from kvmove.registry.remote import PREFIX, ClaimRequest, ReleaseRequest, SwapRequest


def registry_router(registry: Registry, identify: Callable[[Request], Identity]) -> APIRouter:
    """The routes, to be included in the manager's application.

    :param identify: gives the identity that the request's TLS connection proved; raises NotAllowed when it has none.
    """
    router = APIRouter(prefix=PREFIX, tags=["registry"])

    def caller(request: Request) -> Identity:
        return identify(request)

    def agent(request: Request) -> str:
        return require(identify(request), Role.AGENT).name

    @router.get("/ownership", dependencies=[Depends(caller)])
    async def list_ownership() -> list[Ownership]:
        return await registry.list()

    @router.get("/ownership/{vm}", dependencies=[Depends(caller)])
    async def get_ownership(vm: UUID) -> Ownership | None:
        """`null` when the VM is not registered; a 404 could be any server's."""
        return await registry.get(vm)

    @router.post("/claim")
    async def claim(body: ClaimRequest, host: Annotated[str, Depends(agent)]) -> Ownership:
        if body.host != host:
            raise NotAllowed(f"{host} may not claim a VM for {body.host}")
        return await registry.claim(body.vm, host)

    @router.post("/swap")
    async def swap(body: SwapRequest, host: Annotated[str, Depends(agent)]) -> Ownership:
        ownership.check_right(host, body.expected, body.new)
        return await registry.swap(body.expected, body.new)

    @router.post("/release", status_code=204)
    async def release(body: ReleaseRequest, host: Annotated[str, Depends(agent)]) -> None:
        if body.expected.owner != host:
            raise NotAllowed(f"{host} may not release a VM of {body.expected.owner}")
        await registry.release(body.expected)

    return router
