"""Who may do what: users of the API with their tokens, hosts that join, certificates that were issued.

A token and an invitation are secrets. They are in the one answer that makes them, and nowhere else.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from kvmove.model.address import Address
from kvmove.model.names import Name
from kvmove.model.strict import Strict

Pem = Annotated[str, Field(max_length=16_384)]


class UserRole(StrEnum):
    """What a user may do. Each may what the one before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class NewUser(Strict):
    """Body of `POST /api/v1/users`."""

    name: Name
    role: UserRole


class User(Strict):
    """A user of the API. `created` (of the token, RFC 3339) tells how old the token is."""

    name: Name
    role: UserRole
    created: str


class UserToken(User):
    """A user with the token that was just made."""

    token: str


class NewHost(Strict):
    """Body of `POST /api/v1/hosts`. `manager` is where the host reaches the manager, if not at its `listen`."""

    name: Name
    control: Address
    manager: Address | None = None


class HostInvitation(Strict):
    """What lets one host join, once, until `expires` (RFC 3339)."""

    name: Name
    control: Address
    token: str
    expires: str


class HostRemoved(Strict):
    """A host that is gone; so many certificates of it were revoked."""

    name: Name
    revoked: int


class JoinRequest(Strict):
    """Body of `POST /pki/v1/join`: the invitation's secret, and a certificate request (PKCS #10, PEM)."""

    secret: Annotated[str, Field(max_length=200)]
    request: Pem


class RenewRequest(Strict):
    """Body of `POST /pki/v1/renew`: a certificate request (PKCS #10, PEM)."""

    request: Pem


class Certified(Strict):
    """A certificate with that of its authority, PEM."""

    certificate: Pem
    authority: Pem


class AuthorityCertificate(Strict):
    """The authority's own certificate, PEM. Who asks without trust yet compares its fingerprint."""

    authority: Pem


class RevocationList(Strict):
    """The revocation list (X.509, PEM) and its number; `list` is None when nothing is newer than what was known."""

    number: int
    list: str | None


class IssuedCertificate(Strict):
    """A certificate that the authority issued. `serial` is hexadecimal; `issued` and `expires` are RFC 3339."""

    serial: str
    role: str
    name: str
    issued: str
    expires: str
    revoked: bool = False


class RevokeRequest(Strict):
    """Body of `POST /api/v1/certificates:revoke`. Without a role, the name must be of one role only."""

    name: str
    role: str | None = None


class Login(Strict):
    """Body of `POST /api/v1/session`."""

    name: Annotated[str, Field(max_length=200)]
    token: Annotated[str, Field(max_length=200)]


class Session(Strict):
    """Who a person at the page is. `mark` goes with every change, in the header `X-Kvmove-Mark`; the session ends at
    `expires` (RFC 3339)."""

    name: str
    role: str
    expires: str
    mark: str
