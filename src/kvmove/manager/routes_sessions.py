"""REST: a person's session at the web page. To log in is to show a token; whoever has one needs no session."""

import time
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from kvmove.manager.access import Access
from kvmove.manager.gate import Unknown, address_of, refuse_often
from kvmove.manager.peer import peer_of
from kvmove.manager.sessions import COOKIE, mark_of, secret_of
from kvmove.model.access import Login, Session
from kvmove.pki.identity import Identity


def sessions_router(access: Access) -> APIRouter:
    """`/session`: POST logs in, GET tells who one is, DELETE logs out."""
    router = APIRouter(prefix="/session", tags=["session"])

    @router.post("", status_code=201)
    async def log_in(login: Login, request: Request, response: Response) -> Session:
        """Sets the cookie. A wrong name and a wrong token get the same answer."""
        address, now = address_of(request.scope), time.monotonic()
        refuse_often(access.wrong, address, now)
        who = access.users.identify(login.token)
        if who is None or who.name != login.name:
            access.wrong.note(address, now)
            raise Unknown("there is no user of that name with that token", hint="kvmove user add makes users")
        opened = await access.sessions.open(login.token)
        response.set_cookie(COOKIE, opened.secret, secure=True, httponly=True, samesite="strict")
        return _session(who, opened.secret, opened.expires)

    @router.get("")
    async def show_session(request: Request, peer: Annotated[Identity, Depends(peer_of)]) -> Session:
        """Who asks, also with a token or a certificate; `mark` and `expires` are empty then."""
        secret = secret_of(request.headers)
        return _session(peer, secret, access.sessions.expires(secret))

    @router.delete("", status_code=204)
    async def log_out(request: Request, response: Response) -> None:
        await access.sessions.close(secret_of(request.headers))
        response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict")

    return router


def _session(who: Identity, secret: str, expires: float) -> Session:
    until = datetime.fromtimestamp(expires, UTC).isoformat(timespec="seconds") if expires else ""
    return Session(name=who.name, role=who.role.value, expires=until, mark=mark_of(secret) if expires else "")
