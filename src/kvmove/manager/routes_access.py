"""REST: users and their tokens, hosts that come and go, certificates. For admins; see `gate`."""

from fastapi import APIRouter

from kvmove.manager.access import Access
from kvmove.manager.maintenance import Maintenance
from kvmove.manager.task_book import TaskBook
from kvmove.model.access import (
    HostInvitation,
    HostRemoved,
    IssuedCertificate,
    NewHost,
    NewUser,
    RevokeRequest,
    User,
    UserToken,
)
from kvmove.registry.interface import Registry


def access_router(access: Access, registry: Registry, book: TaskBook, maintenance: Maintenance) -> APIRouter:
    """`/users`, `/certificates`, and the two routes that add and remove `/hosts`."""
    router = APIRouter(tags=["access"])

    @router.get("/users")
    async def list_users() -> list[User]:
        return access.users.all()

    @router.post("/users", status_code=201)
    async def add_user(new: NewUser) -> UserToken:
        return await access.users.add(new)

    @router.post("/users/{name}:rotate")
    async def rotate_token(name: str) -> UserToken:
        return await access.users.rotate(name)

    @router.delete("/users/{name}", status_code=204)
    async def remove_user(name: str) -> None:
        await access.users.remove(name)

    @router.post("/hosts", status_code=201)
    async def add_host(new: NewHost) -> HostInvitation:
        return await access.hosts.invite(new)

    @router.delete("/hosts/{name}")
    async def remove_host(name: str) -> HostRemoved:
        removed = await access.hosts.remove(name, registry, book)
        await maintenance.forget(name)
        return removed

    @router.get("/certificates")
    async def list_certificates() -> list[IssuedCertificate]:
        return await access.certificates.all()

    @router.post("/certificates:revoke")
    async def revoke_certificates(asked: RevokeRequest) -> list[IssuedCertificate]:
        party = await access.certificates.party(asked.name, asked.role)
        await access.certificates.revoke(party)
        return [it for it in await access.certificates.all() if (it.role, it.name) == party]

    return router
