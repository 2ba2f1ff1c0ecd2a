"""Users, their sessions, hosts that joined and open invitations on disk, so that they survive a restart of the manager.

Invariant: a change is on disk when its method returns, and no secret is in this file: of a token, a session or an
invitation it holds the SHA-256. That is enough, without salt or a slow hash, because each is 256 random bits of our
own making: there is no dictionary to try, and a slow hash would only let strangers keep the manager busy.

Blocking; `users` and `host_book` keep it away from the event loop. Threads wait for each other.
"""

import hashlib
import secrets
import sqlite3
import threading
from pathlib import Path
from typing import Any

from kvmove.model.access import User
from kvmove.model.move import HostRef

_USERS = """
CREATE TABLE IF NOT EXISTS user (
    name TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    created TEXT NOT NULL,
    token BLOB NOT NULL UNIQUE
) STRICT
"""
_HOSTS = """
CREATE TABLE IF NOT EXISTS host (
    name TEXT PRIMARY KEY,
    control TEXT NOT NULL
) STRICT
"""
_INVITATIONS = """
CREATE TABLE IF NOT EXISTS invitation (
    host TEXT PRIMARY KEY,
    control TEXT NOT NULL,
    secret BLOB NOT NULL,
    expires REAL NOT NULL
) STRICT
"""
_SESSIONS = """
CREATE TABLE IF NOT EXISTS session (
    secret BLOB PRIMARY KEY,
    token BLOB NOT NULL,
    expires REAL NOT NULL
) STRICT
"""
_SAVE_USER = """
INSERT INTO user (name, role, created, token) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET role = excluded.role, created = excluded.created, token = excluded.token
"""
_SAVE_HOST = """
INSERT INTO host (name, control) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET control = excluded.control
"""
_SAVE_INVITATION = """
INSERT INTO invitation (host, control, secret, expires) VALUES (?, ?, ?, ?)
ON CONFLICT (host) DO UPDATE SET control = excluded.control, secret = excluded.secret, expires = excluded.expires
"""
_USE_INVITATION = """
DELETE FROM invitation WHERE secret = ? AND expires > ? RETURNING host, control
"""

FILE = "access.db"
"""In the manager's state folder."""


def new_secret() -> str:
    """256 random bits as text."""
    return secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).digest()


class AccessStore:
    """The file at `path`, made (0600) when it is not there."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        for table in (_USERS, _HOSTS, _INVITATIONS, _SESSIONS):
            self._db.execute(table)

    def users(self) -> list[tuple[bytes, User]]:
        """All users with the digests of their tokens."""
        rows = self._run("SELECT token, name, role, created FROM user ORDER BY name")
        return [(row[0], User(name=row[1], role=row[2], created=row[3])) for row in rows]

    def save_user(self, user: User, token: bytes) -> None:
        """Add a user, or give one another token: the one before it counts no more."""
        self._run(_SAVE_USER, (user.name, user.role, user.created, token))

    def delete_user(self, name: str) -> None:
        self._run("DELETE FROM user WHERE name = ?", (name,))

    def hosts(self) -> list[HostRef]:
        """The hosts that joined."""
        rows = self._run("SELECT name, control FROM host ORDER BY name")
        return [HostRef(name=name, control=control) for name, control in rows]

    def invite(self, host: HostRef, secret: bytes, expires: float) -> None:
        """Let a host join until `expires` (Unix time). An earlier invitation of it counts no more."""
        self._run(_SAVE_INVITATION, (host.name, host.control, secret, expires))

    def use_invitation(self, secret: bytes, now: float) -> HostRef | None:
        """The host that this invitation is for, which joins by that; None for one that is unknown, used or too old."""
        found = self._run(_USE_INVITATION, (secret, now))
        if not found:
            return None
        self._run(_SAVE_HOST, found[0])
        return HostRef(name=found[0][0], control=found[0][1])

    def is_invited(self, host: str) -> bool:
        """Whether there is an invitation for it, used by nobody yet; it may be too old."""
        return bool(self._run("SELECT 1 FROM invitation WHERE host = ?", (host,)))

    def delete_host(self, name: str) -> None:
        """Forget a host, and an invitation for it."""
        self._run("DELETE FROM invitation WHERE host = ?", (name,))
        self._run("DELETE FROM host WHERE name = ?", (name,))

    def sessions(self) -> list[tuple[bytes, bytes, float]]:
        """All sessions: the digests of their secrets and of the tokens that opened them, and when they end."""
        return [(row[0], row[1], row[2]) for row in self._run("SELECT secret, token, expires FROM session")]

    def save_session(self, secret: bytes, token: bytes, expires: float) -> None:
        """Keep a session until `expires` (Unix time)."""
        self._run("INSERT INTO session (secret, token, expires) VALUES (?, ?, ?)", (secret, token, expires))

    def delete_session(self, secret: bytes) -> None:
        self._run("DELETE FROM session WHERE secret = ?", (secret,))

    def delete_sessions_before(self, now: float) -> None:
        """Forget the sessions that have ended by then (Unix time)."""
        self._run("DELETE FROM session WHERE expires <= ?", (now,))

    def close(self) -> None:
        self._db.close()

    def _run(self, statement: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._lock:
            return self._db.execute(statement, values).fetchall()
