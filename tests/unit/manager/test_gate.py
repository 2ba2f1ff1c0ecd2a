"""Who may do what: the whole table of roles and paths."""

import pytest

from kvmove.errors import NotAllowed
from kvmove.manager.gate import ALLOWED, check_access
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
