"""The users of the API: who a token is, and tokens made, replaced and taken away.

Invariant: a change counts for the next request, and is on disk when its method returns. A token is told once, by the
method that makes it. Looking one up takes one hash and no disk.
"""

import asyncio
from collections import OrderedDict, deque
from datetime import UTC, datetime

from kvmove.errors import Busy, InvalidInput, NotFound
from kvmove.manager.access_store import AccessStore, digest, new_secret
from kvmove.manager.lookup import did_you_mean
from kvmove.model.access import NewUser, User, UserToken
from kvmove.pki.identity import Identity, Role, check_name

TOKEN_MARK = "kvmove_"
"""What our tokens begin with, so that people and scanners of repositories know them."""


class Users:
    """All users, in memory and in `store`. Lives on one event loop."""

    def __init__(self, store: AccessStore) -> None:
        self._store = store
        self._by_token = dict(store.users())
        self._changing = asyncio.Lock()

    def all(self) -> list[User]:
        """All users by name."""
        return sorted(self._by_token.values(), key=lambda user: user.name)

    def identify(self, token: str) -> Identity | None:
        """Whose token it is; None when nobody's."""
        return self.holder(digest(token))

    def holder(self, hashed: bytes) -> Identity | None:
        """Whose token has this digest; None when nobody's, or not any more."""
        user = self._by_token.get(hashed)
        return Identity(Role(user.role), user.name) if user is not None else None

    async def add(self, new: NewUser) -> UserToken:
        """A new user with a token.

        :raise Busy: there is one of that name.
        :raise InvalidInput: the name cannot be a party's.
        """
        async with self._changing:
            if any(user.name == new.name for user in self.all()):
                raise Busy(
                    f"there is a user {new.name} already", hint=f"kvmove user rotate {new.name} makes a new token"
                )
            made = new_user(new)
            await self._keep(made)
            return made

    async def rotate(self, name: str) -> UserToken:
        """Another token for a user; the one before it counts no more.

        :raise NotFound: no such user.
        """
        async with self._changing:
            old = self._find(name)
            made = new_user(NewUser(name=old.name, role=old.role))
            await self._keep(made)
            return made

    async def remove(self, name: str) -> None:
        """Take a user and the token away.

        :raise NotFound: no such user.
        """
        async with self._changing:
            self._find(name)
            await asyncio.to_thread(self._store.delete_user, name)
            self._forget(name)

    async def _keep(self, made: UserToken) -> None:
        user, hashed = without_token(made), digest(made.token)
        await asyncio.to_thread(self._store.save_user, user, hashed)
        self._forget(user.name)
        self._by_token[hashed] = user

    def _forget(self, name: str) -> None:
        self._by_token = {token: user for token, user in self._by_token.items() if user.name != name}

    def _find(self, name: str) -> User:
        names = {user.name: user for user in self.all()}
        if name not in names:
            raise NotFound(f"there is no user {name!r}", hint=did_you_mean(name, names))
        return names[name]


def new_user(new: NewUser) -> UserToken:
    """A user with a token, kept nowhere yet.

    :raise InvalidInput: the name cannot be a party's.
    """
    check_name(Identity(Role(new.role), new.name))
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return UserToken(name=new.name, role=new.role, created=created, token=TOKEN_MARK + new_secret())


def without_token(made: UserToken) -> User:
    return User(name=made.name, role=made.role, created=made.created)


class WrongSecrets:
    """How often an address came with a wrong token or invitation lately. Pure: the time is told, in seconds.

    Nobody guesses 256 bits; this keeps a program that tries from filling the log and keeping the manager busy. It
    remembers `addresses` addresses at most, the latest, and `limit` times of each.
    """

    def __init__(self, limit: int = 10, window: float = 60.0, addresses: int = 1000) -> None:
        self._limit = limit
        self._window = window
        self._addresses = addresses
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, address: str, now: float) -> float:
        """Seconds until this address may try again; 0 when it may now."""
        times = self._times.get(address)
        if times is None or len(times) < self._limit:
            return 0.0
        return max(0.0, times[0] + self._window - now)

    def note(self, address: str, now: float) -> None:
        """It came with a wrong one."""
        times = self._times.setdefault(address, deque(maxlen=self._limit))
        times.append(now)
        self._times.move_to_end(address)
        while len(self._times) > self._addresses:
            self._times.popitem(last=False)


def bearer(header: str) -> str:
    """The token of an `Authorization` header.

    :raise InvalidInput: it is of another scheme. What stands in it is not repeated.
    """
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise InvalidInput("the Authorization header is not understood", hint="send `Authorization: Bearer TOKEN`")
    return token.strip()
