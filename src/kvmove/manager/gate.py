"""Who may do what on the manager: one table, and everything that is not in it is refused.

Invariant: the table is looked at before any route, so a new route is closed until its prefix is listed here. No body
is read that is longer than `MAX_BODY` or does not say its length, so no peer can fill the manager's memory.

It does not look at what an agent says in a request: the registry's routes check that against its name.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from kvmove.errors import InvalidInput, KvmoveError, NotAllowed
from kvmove.manager.answers import problem_response
from kvmove.manager.peer import peer_of_scope
from kvmove.pki.identity import Identity, Role

_EVERYONE = frozenset(Role)

ALLOWED: tuple[tuple[str, frozenset[Role]], ...] = (
    ("/api/", frozenset({Role.OPERATOR})),
    ("/registry/", frozenset({Role.AGENT})),
    ("/openapi.json", frozenset({Role.OPERATOR})),
    ("/healthz", _EVERYONE),
)
"""Path prefix and the roles that it is open to."""


MAX_BODY = 1024 * 1024
"""Bytes; the longest request that means anything, a VM with all its disks, has some thousand."""


def check_body(headers: Headers) -> None:
    """Return when a request with these headers may be read.

    :raise InvalidInput: its body is too long, or of unknown length.
    """
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers:
        raise InvalidInput("the request does not say how long it is", hint="send it with a Content-Length")
    if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY:
        raise InvalidInput(f"the request is longer than {MAX_BODY} bytes")


def check_access(peer: Identity | None, path: str) -> None:
    """Return when `peer` may ask for `path`.

    :raise NotAllowed: a stranger, a role that the path is not open to, or a path that is open to nobody.
    """
    if peer is None:
        raise NotAllowed(
            "this connection carries no certificate of this installation",
            hint="as root use the manager's Unix socket; elsewhere an operator's certificate (kvmove pki issue)",
        )
    for prefix, roles in ALLOWED:
        if path.startswith(prefix):
            if peer.role in roles:
                return
            break
    raise NotAllowed(
        f"{peer} may not use {path}",
        hint="operators use /api, agents use /registry",
    )


class Gate:
    """ASGI middleware around the whole application: `check_access` and `check_body` for each request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                check_access(peer_of_scope(scope), scope["path"])
                check_body(Headers(scope=scope))
            except KvmoveError as error:
                await problem_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
