"""What parties ask about certificates: `/pki/v1`. The authority, joining, renewal, the revocation list.

Two of the routes are open to strangers: the authority's certificate, which is public, and joining, where the
invitation in the body is what counts.
"""

import time
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Query, Request

from kvmove.errors import NotAllowed
from kvmove.manager.access import Access
from kvmove.manager.gate import address_of, refuse_often
from kvmove.manager.peer import peer_of, serial_of_scope
from kvmove.model.access import AuthorityCertificate, Certified, JoinRequest, RenewRequest, RevocationList
from kvmove.pki.identity import Identity


class Shown(NamedTuple):
    """Who shows a certificate, and its serial number."""

    party: Identity
    serial: int


def pki_router(access: Access) -> APIRouter:
    """The routes, to be included in the manager's application."""
    router = APIRouter(prefix="/pki/v1", tags=["pki"])

    def shown(request: Request) -> Shown:
        """A token is no certificate, and cannot become one."""
        party, serial = peer_of(request), serial_of_scope(request.scope)
        if serial is None or "authorization" in request.headers:
            raise NotAllowed("only a certificate that counts is renewed", hint="connect with it, and without a token")
        return Shown(party, serial)

    @router.get("/authority")
    async def show_authority() -> AuthorityCertificate:
        return AuthorityCertificate(authority=access.certificates.own_authority())

    @router.post("/join")
    async def join(asked: JoinRequest, request: Request) -> Certified:
        address, now = address_of(request.scope), time.monotonic()
        refuse_often(access.wrong, address, now)
        try:
            return await access.hosts.join(asked)
        except NotAllowed:
            access.wrong.note(address, now)
            raise

    @router.get("/revocations")
    async def show_revocations(after: Annotated[int, Query(ge=0)] = 0) -> RevocationList:
        return access.certificates.list_after(after)

    @router.post("/renew")
    async def renew(asked: RenewRequest, by: Annotated[Shown, Depends(shown)]) -> Certified:
        return await access.certificates.renew(asked.request, by.party, by.serial)

    return router
