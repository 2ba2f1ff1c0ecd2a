"""The part of the manager's interface that is for admins: users, hosts that come and go, certificates.

Every method raises as those of `client.manager` do.
"""

from pydantic import TypeAdapter

from kvmove.client.http import HttpClient, segment
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

_PREFIX = "/api/v1"
_USERS = TypeAdapter(list[User])
_TOKEN = TypeAdapter(UserToken)
_INVITATION = TypeAdapter(HostInvitation)
_REMOVED = TypeAdapter(HostRemoved)
_CERTIFICATES = TypeAdapter(list[IssuedCertificate])
_NOTHING = TypeAdapter(type(None))


class AccessClient:
    """Over a connection to the manager that is another's to close."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    async def users(self) -> list[User]:
        return await self._http.ask(_USERS, "GET", f"{_PREFIX}/users")

    async def add_user(self, new: NewUser) -> UserToken:
        """A new user; the token is in this answer alone."""
        return await self._http.ask(_TOKEN, "POST", f"{_PREFIX}/users", new)

    async def rotate(self, name: str) -> UserToken:
        """Another token for a user; the one before it counts no more."""
        return await self._http.ask(_TOKEN, "POST", f"{_PREFIX}/users/{segment(name)}:rotate")

    async def remove_user(self, name: str) -> None:
        await self._http.ask(_NOTHING, "DELETE", f"{_PREFIX}/users/{segment(name)}")

    async def add_host(self, new: NewHost) -> HostInvitation:
        """What lets a host join, once."""
        return await self._http.ask(_INVITATION, "POST", f"{_PREFIX}/hosts", new)

    async def remove_host(self, name: str) -> HostRemoved:
        """Forget a host and revoke its certificates."""
        return await self._http.ask(_REMOVED, "DELETE", f"{_PREFIX}/hosts/{segment(name)}")

    async def certificates(self) -> list[IssuedCertificate]:
        """What was issued and has not run out, oldest first."""
        return await self._http.ask(_CERTIFICATES, "GET", f"{_PREFIX}/certificates")

    async def revoke(self, asked: RevokeRequest) -> list[IssuedCertificate]:
        """Revoke all certificates of a party; what they were."""
        return await self._http.ask(_CERTIFICATES, "POST", f"{_PREFIX}/certificates:revoke", asked)
