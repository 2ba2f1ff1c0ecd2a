"""Who may do what on the manager: one table, and everything that is not in it is refused.

Invariant: the table is looked at before any route, so a new route is closed until its prefix is listed here; what is
new under `/api/` is open to viewers for reading and to operators for the rest. No body is read that is longer than
`MAX_BODY` or does not say its length, so no peer can fill the manager's memory. A certificate that is revoked, and a
token that was taken away, count for no request from then on, and a stream that they opened ends; so it is with a
session that was ended. What a page of another site lets a browser ask is refused, whoever that browser knows itself as.

It does not look at what an agent says in a request: the registry's routes check that against its name.
"""

import time
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvmove.errors import Busy, InvalidInput, KvmoveError, NotAllowed
from kvmove.manager.access import Access
from kvmove.manager.answers import problem_response
from kvmove.manager.origin import check_origin
from kvmove.manager.page import is_page
from kvmove.manager.peer import peer_of_scope, serial_of_scope
from kvmove.manager.sessions import check_mark, secret_of
from kvmove.manager.users import WrongSecrets, bearer
from kvmove.pki.identity import Identity, Role

Who = frozenset[Role | None]
"""Roles; None is a stranger, who showed neither a certificate nor a token."""

NOBODY: Who = frozenset()
KNOWN: Who = frozenset(Role)
ANYBODY: Who = KNOWN | {None}
VIEWERS: Who = frozenset({Role.VIEWER, Role.OPERATOR, Role.ADMIN})
OPERATORS: Who = frozenset({Role.OPERATOR, Role.ADMIN})
ADMINS: Who = frozenset({Role.ADMIN})
AGENTS: Who = frozenset({Role.AGENT})

_READS = frozenset({"GET", "HEAD"})
_CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Rule(NamedTuple):
    """Paths that begin with `prefix`: who may read, and who may change. None: a later rule says."""

    prefix: str
    read: Who | None
    change: Who | None


TABLE: tuple[Rule, ...] = (
    Rule("/registry/", AGENTS, AGENTS),
    Rule("/pki/v1/authority", ANYBODY, NOBODY),  # public, and needed before there is trust
    Rule("/pki/v1/join", NOBODY, ANYBODY),  # the invitation in the body is what counts
    Rule("/pki/v1/revocations", KNOWN, NOBODY),
    Rule("/pki/v1/renew", NOBODY, KNOWN),
    Rule("/api/v1/users", ADMINS, ADMINS),
    Rule("/api/v1/certificates", ADMINS, ADMINS),
    Rule("/api/v1/cluster", ADMINS, ADMINS),
    Rule("/api/v1/config", ADMINS, ADMINS),
    Rule("/api/v1/session", VIEWERS, ANYBODY),  # to log in, the token in the body is what counts
    Rule("/api/", VIEWERS, OPERATORS),
    Rule("/metrics", VIEWERS, NOBODY),
    Rule("/openapi.json", VIEWERS, NOBODY),
    Rule("/healthz", KNOWN, NOBODY),
    Rule("/readyz", KNOWN, NOBODY),
    Rule("/assets/", ANYBODY, NOBODY),  # the page; it knows nothing before somebody logs in
)
"""The first rule that fits counts."""

_HOSTS = "/api/v1/hosts"

MAX_BODY = 1024 * 1024
"""Bytes; the longest request that means anything, a VM with all its disks, has some thousand."""

MAX_BODY_OF_STRANGER = 24 * 1024
"""Bytes; an invitation and a certificate request have one or two thousand."""


class Unknown(NotAllowed):
    """Nobody that is known here; elsewhere it is a NotAllowed."""

    status = 401


class TooOften(Busy):
    """Too many wrong tokens; elsewhere it is a Busy."""

    status = 429


def who_may(method: str, path: str) -> Who:
    """The roles that this method and path are open to."""
    if not path.isprintable():
        return NOBODY  # a route's pattern may take a line's end for nothing
    if _is_about_which_hosts_there_are(method, path):
        return ADMINS
    if path == "/":
        return ANYBODY if method in _READS else NOBODY
    for rule in TABLE:
        if path.startswith(rule.prefix):
            who = rule.read if method in _READS else rule.change if method in _CHANGES else NOBODY
            if who is not None:
                return who
    return NOBODY


def _is_about_which_hosts_there_are(method: str, path: str) -> bool:
    """To add and remove hosts is for admins; what else there is to do with a host (`hosts/NAME:VERB`) is not."""
    return path.startswith(_HOSTS) and (
        method == "DELETE" or (method in _CHANGES and path.removeprefix(_HOSTS).strip("/") == "")
    )


def check_access(peer: Identity | None, method: str, path: str) -> None:
    """Return when `peer` may ask for `path` so.

    :raise NotAllowed: a stranger, a role that the path is not open to, or a path that is open to nobody.
    """
    who = who_may(method, path)
    if (peer.role if peer is not None else None) in who:
        return
    if peer is None:
        raise Unknown(
            "this connection carries no certificate of this installation, and no token",
            hint="as root use the manager's Unix socket; elsewhere a token (KVMOVE_TOKEN) or a certificate",
        )
    wanted = ", ".join(sorted(role for role in who if role is not None)) or "nobody"
    raise NotAllowed(f"{peer} may not use {method} {path}", hint=f"it is for: {wanted}")


def check_body(headers: Headers, longest: int = MAX_BODY) -> None:
    """Return when a request with these headers may be read.

    :raise InvalidInput: its body is too long, or of unknown length.
    """
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers:
        raise InvalidInput("the request does not say how long it is", hint="send it with a Content-Length")
    if not length.isascii() or not length.isdigit() or int(length) > longest:
        raise InvalidInput(f"the request is longer than {longest} bytes")


class Gate:
    """ASGI middleware around the whole application: who it is, `check_access` and `check_body` for each request."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._users = access.users
        self._sessions = access.sessions
        self._revocations = access.certificates.revocations
        self._wrong = access.wrong

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # there is nothing else here, and nothing else is looked at
        try:
            if not is_page(scope["path"]):
                check_origin(Headers(scope=scope), scope["scheme"])
            peer = self._who(scope)
            check_access(peer, scope["method"], scope["path"])
            check_body(Headers(scope=scope), MAX_BODY if peer is not None else MAX_BODY_OF_STRANGER)
        except KvmoveError as error:
            response = problem_response(error)
            if isinstance(error, Unknown):
                response.headers["WWW-Authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        scope["state"] = {**scope.get("state", {}), "peer": peer}
        await self._app(scope, receive, self._while_known(scope, send))

    def _who(self, scope: Scope) -> Identity | None:
        """A token counts before the connection's own identity, and a right one whatever wrong ones came from there:
        many users may share an address.

        :raise NotAllowed: a token that is nobody's, or a certificate that is revoked.
        """
        if self._revocations.hold(serial_of_scope(scope)):
            raise NotAllowed("your certificate is revoked", hint="ask an admin for another")
        headers = Headers(scope=scope)
        peer = self._by_secret(headers)
        if "authorization" not in headers:
            if peer is None:
                return peer_of_scope(scope)
            if scope["method"] not in _READS:
                check_mark(headers)
        elif peer is None:
            address, now = address_of(scope), time.monotonic()
            refuse_often(self._wrong, address, now)
            self._wrong.note(address, now)
            raise Unknown("the token is not known here", hint="was it replaced? kvmove user rotate makes another")
        if known := scope.get("state", {}).get("known"):
            known()
        return peer

    def _while_known(self, scope: Scope, send: Send) -> Send:
        """Ends an answer that is under way when its asker's certificate is revoked, or its token taken away."""
        serial, headers = serial_of_scope(scope), Headers(scope=scope)
        by_secret = self._by_secret(headers)
        ended = False

        async def pass_on(message: Message) -> None:
            nonlocal ended
            if ended:
                return
            is_known = not self._revocations.hold(serial) and self._by_secret(headers) == by_secret
            if not is_known and message["type"] == "http.response.body":
                message, ended = {"type": "http.response.body", "body": b"", "more_body": False}, True
            await send(message)

        return pass_on

    def _by_secret(self, headers: Headers) -> Identity | None:
        """Who the request's token, or without one its session, says it is; None: nobody, or neither is there."""
        header = headers.get("authorization")
        if header is not None:
            return self._users.identify(bearer(header))
        secret = secret_of(headers)
        return self._sessions.identify(secret) if secret else None


def address_of(scope: Scope) -> str:
    """Where a request came from, for counting; the Unix socket is one place."""
    client = scope.get("client")
    return client[0] if client else "local"


def refuse_often(wrong: WrongSecrets, address: str, now: float) -> None:
    """:raise Busy: too many wrong tokens came from there."""
    if seconds := wrong.wait(address, now):
        raise TooOften(f"too many wrong tokens came from {address}", hint=f"wait {seconds:.0f} s")
