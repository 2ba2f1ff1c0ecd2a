"""Who may do what: every role at every route that there is, and at some that there are not."""

import pytest
from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers

from kvmove.errors import InvalidInput, NotAllowed
from kvmove.manager.gate import (
    ADMINS,
    AGENTS,
    ANYBODY,
    KNOWN,
    MAX_BODY,
    NOBODY,
    OPERATORS,
    TABLE,
    VIEWERS,
    Who,
    check_access,
    check_body,
    who_may,
)
from kvmove.pki.identity import Identity, Role
from tests.unit.manager.conftest import PARTIES, Served
from tests.unit.manager.test_rest import raw

PEERS = [*PARTIES, None]

PATHS: dict[tuple[str, str], Who] = {
    ("GET", "/api/v1/vms"): VIEWERS,
    ("HEAD", "/api/v1/vms"): VIEWERS,
    ("POST", "/api/v1/moves"): OPERATORS,
    ("PATCH", "/api/v1/tasks/1"): OPERATORS,
    ("POST", "/api/v1/new"): OPERATORS,
    ("OPTIONS", "/api/v1/vms"): NOBODY,
    ("BREW", "/api/v1/vms"): NOBODY,
    ("POST", "/api/v1/hosts"): ADMINS,
    ("POST", "/api/v1/hosts/"): ADMINS,
    ("DELETE", "/api/v1/hosts/h1"): ADMINS,
    ("GET", "/api/v1/hosts"): VIEWERS,
    ("POST", "/api/v1/hosts/h1:maintain"): OPERATORS,
    ("GET", "/api/v1/users"): ADMINS,
    ("POST", "/api/v1/users/ann:rotate"): ADMINS,
    ("GET", "/api/v1/certificates"): ADMINS,
    ("POST", "/api/v1/certificates:revoke"): ADMINS,
    ("POST", "/api/v1/users\n"): NOBODY,
    ("POST", "/api/v1/hosts\n"): NOBODY,
    ("GET", "/registry/v1/ownership"): AGENTS,
    ("POST", "/registry/v1/swap"): AGENTS,
    ("GET", "/pki/v1/authority"): ANYBODY,
    ("POST", "/pki/v1/authority"): NOBODY,
    ("POST", "/pki/v1/join"): ANYBODY,
    ("GET", "/pki/v1/revocations"): KNOWN,
    ("POST", "/pki/v1/renew"): KNOWN,
    ("GET", "/openapi.json"): VIEWERS,
    ("GET", "/metrics"): VIEWERS,
    ("GET", "/healthz"): KNOWN,
    ("GET", "/"): ANYBODY,
    ("POST", "/"): NOBODY,
    ("GET", "/assets/index.js"): ANYBODY,
    ("POST", "/assets/index.js"): NOBODY,
    ("GET", "/api/v1/session"): VIEWERS,
    ("POST", "/api/v1/session"): ANYBODY,
    ("GET", "/api"): NOBODY,
    ("GET", "/API/v1/vms"): NOBODY,
    ("GET", "/registry"): NOBODY,
    ("GET", "/docs"): NOBODY,
    ("GET", "//api/v1/vms"): NOBODY,
    ("GET", "/new/thing"): NOBODY,
}

SESSIONS = {("POST", "/api/v1/session"), ("DELETE", "/api/v1/session")}
PAGE = {("GET", "/"), ("GET", "/assets/{name}")}
OPEN_TO_STRANGERS = {("GET", "/pki/v1/authority"), ("POST", "/pki/v1/join")} | SESSIONS | PAGE
FOR_ADMINS = {
    ("GET", "/api/v1/users"),
    ("POST", "/api/v1/users"),
    ("POST", "/api/v1/users/{name}:rotate"),
    ("DELETE", "/api/v1/users/{name}"),
    ("POST", "/api/v1/hosts"),
    ("DELETE", "/api/v1/hosts/{name}"),
    ("GET", "/api/v1/certificates"),
    ("POST", "/api/v1/certificates:revoke"),
}


@pytest.mark.parametrize("asked", PATHS, ids=lambda asked: f"{asked[0]} {asked[1]!r}")
@pytest.mark.parametrize("peer", PEERS, ids=str)
def test_a_role_may_do_what_the_table_says_and_nothing_else(asked: tuple[str, str], peer: Identity | None) -> None:
    if (peer.role if peer else None) in PATHS[asked]:
        check_access(peer, *asked)
    else:
        with pytest.raises(NotAllowed):
            check_access(peer, *asked)


def test_no_rule_hides_behind_one_before_it() -> None:
    prefixes = [rule.prefix for rule in TABLE]
    assert not [(a, b) for place, a in enumerate(prefixes) for b in prefixes[place + 1 :] if b.startswith(a)]


def routes(served: Served) -> list[tuple[str, str]]:
    """Every method and path of the application, as its routes have them."""
    found = iter_route_contexts(served.app.routes)
    return sorted((method, route.path or "") for route in found for method in route.methods or ())


def concrete(path: str) -> str:
    """With names that nothing is called by, so that whoever may ask changes nothing."""
    return path.replace("{", "no-such-").replace("}", "")


async def test_every_route_answers_the_roles_of_the_table_and_turns_away_the_others(served: Served) -> None:
    """The whole matrix, over the real door. What the routes behind the gate say does not matter here."""
    tokens = {
        role: (await served.new_user(role)).token for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
    }  # fmt: skip
    assert len(routes(served)) > 20
    for method, path in routes(served):
        who = who_may(method, concrete(path))
        for peer in PEERS:
            role = peer.role if peer else None
            status = await served.status(method, concrete(path), peer.name if peer else None)
            told = f"{method} {path} is for {sorted(map(str, who))}; {role} got {status}"
            assert (status == (403 if peer else 401)) is (role not in who), told
            if role in tokens:
                with_token = await served.status(method, concrete(path), None, token=tokens[role])
                is_open = role in who and path != "/pki/v1/renew"  # a token never becomes a certificate
                assert (with_token == 403) is not is_open, (told, with_token)


async def test_what_is_open_to_whom_among_all_routes_is_no_surprise(served: Served) -> None:
    """Of a new route this says who may use it; what it must never be is here."""
    matrix = {asked: who_may(asked[0], concrete(asked[1])) for asked in routes(served)}
    assert {asked for asked, who in matrix.items() if None in who} == OPEN_TO_STRANGERS
    assert {asked for asked, who in matrix.items() if who == ADMINS} >= FOR_ADMINS
    for (method, path), who in matrix.items():
        assert who, f"{method} {path} is open to nobody: give it a rule in gate.TABLE"
        if path.startswith("/api/") and (method, path) not in SESSIONS:
            assert who <= VIEWERS and Role.ADMIN in who, (method, path)
            assert method in ("GET", "HEAD") or Role.VIEWER not in who, (method, path)
        elif path.startswith("/registry/"):
            assert who == AGENTS, (method, path)


async def test_a_route_that_is_not_in_the_table_is_closed(served: Served) -> None:
    async def planted() -> str:
        return "open"

    served.app.add_api_route("/extra/thing", planted)
    for peer in PEERS:
        assert await served.status("GET", "/extra/thing", peer.name if peer else None) in (401, 403)
    assert (await raw(served, "GET", "/extra/thing"))[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"content-length": str(MAX_BODY + 1)},
        {"content-length": "9" * 30},
        {"content-length": "-1"},
        {"transfer-encoding": "chunked"},
        {"transfer-encoding": "chunked", "content-length": "1"},
    ],
)
def test_a_body_too_long_or_of_unknown_length_is_not_read(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        check_body(Headers(headers))


@pytest.mark.parametrize("headers", [{}, {"content-length": "0"}, {"content-length": str(MAX_BODY)}])
def test_a_body_of_common_length_is_read(headers: dict[str, str]) -> None:
    check_body(Headers(headers))
