"""Who a party is: a role and a name, as its certificate says. Pure.

Invariant: an identity is read from a certificate only when its subject and its alternative name say the same thing, so
no certificate can be one party for the server's eyes and another for the client's.

It does not check signatures or dates; TLS has done that before a certificate comes here (see `contexts`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from kvmove.errors import InvalidInput, NotAllowed

_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
MAX_NAME = 63


class Role(StrEnum):
    """What a party is in the system. A host's agent is named as its host. The last three are people or programs."""

    AGENT = "agent"
    MANAGER = "manager"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Identity(NamedTuple):
    """A party: `Identity(Role.AGENT, "h1")`."""

    role: Role
    name: str

    def __str__(self) -> str:
        return self.role.value if self.role is Role.MANAGER else f"{self.role} {self.name}"

    @property
    def dns_name(self) -> str:
        """The name that a client asks for, whatever address it connects to. All managers share one name."""
        return "manager.kvmove" if self.role is Role.MANAGER else f"{self.name}.{self.role}.kvmove"


def check_name(identity: Identity) -> None:
    """See that the name can stand in a certificate.

    Lower case only: TLS compares names without regard to case, so `H1` and `h1` would be the same party.

    :raise InvalidInput: it cannot.
    """
    if len(identity.name) > MAX_NAME or not _NAME.fullmatch(identity.name):
        raise InvalidInput(
            f"{identity.name!r} cannot be the name of a party",
            hint=f"use up to {MAX_NAME} lower-case letters, digits, dashes, underscores and inner dots",
        )


def peer_identity(peercert: Mapping[str, Any] | None) -> Identity:
    """Who the other side is. `peercert` is what `SSLSocket.getpeercert()` gave for a verified certificate.

    :raise NotAllowed: no certificate, or one that names no party of ours.
    """
    if not peercert:
        raise NotAllowed("the other side showed no certificate", hint="connect with a certificate of this cluster")
    units = list(_subject(peercert, "organizationalUnitName"))
    names = list(_subject(peercert, "commonName"))
    if len(units) != 1 or len(names) != 1 or units[0] not in set(Role):
        raise NotAllowed(f"the certificate names no role and name of ours (roles {units}, names {names})")
    identity = Identity(Role(units[0]), names[0])
    if ("DNS", identity.dns_name) not in peercert.get("subjectAltName", ()):
        raise NotAllowed(f"the certificate of {identity} lacks the name {identity.dns_name}")
    return identity


def require(identity: Identity, *roles: Role) -> Identity:
    """Give the identity back when its role is one of `roles`.

    :raise NotAllowed: another role.
    """
    if identity.role not in roles:
        raise NotAllowed(f"{identity} may not do this; it is for the role {' or '.join(roles)}")
    return identity


def _subject(peercert: Mapping[str, Any], kind: str) -> Iterator[str]:
    for relative_name in peercert.get("subject", ()):
        for key, value in relative_name:
            if key == kind:
                yield value
