"""Sessions of people at the web page: opened with a token, told by a cookie, ended by a word, by time, or with it.

Invariant: a session gives what its user's role gives now and nothing more; it ends in the moment when that token is
replaced or taken away. Sessions outlive a restart of the manager. Of the cookie the disk knows a digest only.

The cookie cannot be read by scripts and is sent to this origin alone. A change needs a mark besides, which a page gets
from `GET /api/v1/session`, so a request that a browser was led to make changes nothing.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from starlette.datastructures import Headers

from kvmove.errors import Busy, NotAllowed
from kvmove.manager.access_store import AccessStore, digest, new_secret
from kvmove.manager.users import Users
from kvmove.pki.identity import Identity

COOKIE = "__Host-kvmove"
"""By its name browsers take it over TLS alone, for this host alone and for all paths."""

MARK = "x-kvmove-mark"

LAST_SECONDS = 12 * 3600
"""A long working day."""

MOST_OF_TOKEN = 100
"""Sessions that one token may have open at a time."""


class Opened(NamedTuple):
    """A session; `expires` is Unix time."""

    secret: str
    expires: float


class Sessions:
    """All sessions, in memory and in `store`. Lives on one event loop. `now` gives seconds since 1970."""

    def __init__(self, store: AccessStore, users: Users, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._users = users
        self._now = now
        self._open = {secret: (token, expires) for secret, token, expires in store.sessions()}

    async def open(self, token: str) -> Opened:
        """A new session for whoever's token this is; the caller has seen that it is somebody's.

        :raise Busy: this token has `MOST_OF_TOKEN` sessions.
        """
        await self._forget_ended()
        if sum(1 for by, _ in self._open.values() if by == digest(token)) >= MOST_OF_TOKEN:
            raise Busy(
                f"there are {MOST_OF_TOKEN} sessions with this token",
                hint="log out elsewhere; a new token ends them all: kvmove user rotate",
            )
        opened = Opened(new_secret(), self._now() + LAST_SECONDS)
        await asyncio.to_thread(self._store.save_session, digest(opened.secret), digest(token), opened.expires)
        self._open[digest(opened.secret)] = (digest(token), opened.expires)
        return opened

    def identify(self, secret: str) -> Identity | None:
        """Whose session it is; None when it is nobody's, or has ended."""
        token, expires = self._open.get(digest(secret), (b"", 0.0))
        return self._users.holder(token) if expires > self._now() else None

    def expires(self, secret: str) -> float:
        """When it ends (Unix time); 0 for one that is not there."""
        return self._open.get(digest(secret), (b"", 0.0))[1]

    async def close(self, secret: str) -> None:
        """End it, if it is there."""
        if self._open.pop(digest(secret), None):
            await asyncio.to_thread(self._store.delete_session, digest(secret))

    async def _forget_ended(self) -> None:
        now = self._now()
        await asyncio.to_thread(self._store.delete_sessions_before, now)
        self._open = {secret: kept for secret, kept in self._open.items() if kept[1] > now}


def secret_of(headers: Headers) -> str:
    """The session's secret in a request's cookies, empty without one."""
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def mark_of(secret: str) -> str:
    """What a change within this session has to carry."""
    return hashlib.sha256(b"mark of a session\0" + secret.encode()).hexdigest()


def check_mark(headers: Headers) -> None:
    """Return when a change within a session carries its mark.

    :raise NotAllowed: it does not.
    """
    given = headers.get(MARK, "")
    if not secrets.compare_digest(given.encode(), mark_of(secret_of(headers)).encode()):
        raise NotAllowed(
            "a change within a session has to carry its mark", hint=f"send {MARK} as GET /api/v1/session tells it"
        )
