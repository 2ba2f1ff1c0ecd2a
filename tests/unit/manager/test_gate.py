"""Who may do what: the whole table of roles and paths."""

import pytest
from starlette.datastructures import Headers

from kvmove.errors import InvalidInput, NotAllowed
from kvmove.manager.gate import ALLOWED, MAX_BODY, check_access, check_body
from kvmove.pki.identity import Identity, Role

AGENT = Identity(Role.AGENT, "h1")
MANAGER = Identity(Role.MANAGER, "manager")
OPERATOR = Identity(Role.OPERATOR, "ann")

PATHS = {
    "/api/v1/vms": {OPERATOR},
    "/api/v1/moves": {OPERATOR},
    "/registry/v1/ownership": {AGENT},
    "/registry/v1/swap": {AGENT},
    "/openapi.json": {OPERATOR},
    "/healthz": {OPERATOR, AGENT, MANAGER},
    "/": set(),
    "/api": set(),
    "/API/v1/vms": set(),
    "/registry": set(),
    "/docs": set(),
    "//api/v1/vms": set(),
    "/new/thing": set(),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("peer", [AGENT, MANAGER, OPERATOR, None])
def test_a_role_may_do_what_the_table_says_and_nothing_else(path: str, peer: Identity | None) -> None:
    if peer in PATHS[path]:
        check_access(peer, path)
    else:
        with pytest.raises(NotAllowed):
            check_access(peer, path)


def test_no_prefix_hides_behind_another() -> None:
    prefixes = [prefix for prefix, _ in ALLOWED]
    assert not [(a, b) for a in prefixes for b in prefixes if a != b and a.startswith(b)]


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
