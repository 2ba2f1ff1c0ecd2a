"""Calling one party: JSON over HTTP, on mutual TLS or on a Unix socket of this machine.

Invariant: a call that came back came from the party that was asked for (its certificate's name is checked, not its
address). What fails becomes one of our errors: `Unreachable` when no answer came (what was asked may have been done all
the same), `NotAllowed` when the other side is not who it should be, or the other side's own problem.

It does not retry, does not follow redirects, reads no proxy settings and keeps no cookies.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
from yarl import URL

from kvmove.errors import KvmoveError, NotAllowed, Unreachable, from_problem
from kvmove.pki.contexts import LiveContext, client_context, trusting_context
from kvmove.pki.identity import Identity

DEFAULT_TIMEOUT = 10.0
"""Seconds within which an answer must be complete."""

CONNECT_TIMEOUT = 5.0
KEEP_ALIVE = 30.0
"""Seconds that a connection is kept for the next call: to make one takes two round trips more, in a switchover too.
Whoever listens keeps it for longer: the caller lets go first, so a call rarely meets a closing connection."""
_MAX_ANSWER = 32 * 1024 * 1024


class NotTrusted(NotAllowed):
    """TLS came to nothing: one side does not trust the other. Nothing was asked. Elsewhere it is a NotAllowed."""


class Peer:
    """One party at one address. Make it inside a running event loop or outside; it connects at its first call.

    Use `over_tls`, `over_socket` or `over_trust` to make one, and `close` it in the end.
    """

    def __init__(
        self,
        base: str,
        shown: str,
        *,
        tls: Callable[[], ssl.SSLContext] | None,
        expected: Identity | None,
        socket: Path | None,
    ) -> None:
        self.shown = shown
        self._base = base.rstrip("/")
        self._tls = tls
        self._expected = expected
        self._socket = socket
        self._bearer: dict[str, str] = {}
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    @classmethod
    def over_tls(cls, address: str, pki: Path, expected: Identity) -> Self:
        """The party `expected` at `address` (`https://IP:port` or `IP:port`); `pki` is the caller's own folder.

        A certificate that is renewed meanwhile is shown from then on.

        :raise NotFound, NotAllowed: the folder's files are missing or broken.
        """
        base, shown = _https(address, expected)
        return cls(base, shown, tls=LiveContext(pki, client_context), expected=expected, socket=None)

    @classmethod
    def over_trust(cls, address: str, authority: str, expected: Identity, token: str = "") -> Self:
        """The party `expected`, called without a certificate of our own; `authority` (PEM) is whom we trust.

        :param token: who we are, sent with every question; it is in no message of ours.
        :raise NotAllowed: `authority` is no certificate.
        """
        base, shown = _https(address, expected)
        context = trusting_context(authority)
        made = cls(base, shown, tls=lambda: context, expected=expected, socket=None)
        made._bearer = {"Authorization": f"Bearer {token}"} if token else {}
        return made

    @classmethod
    def over_socket(cls, path: Path) -> Self:
        """The party that listens on the Unix socket `path`; the file's owner and mode say who may call."""
        return cls("http://localhost", str(path), tls=None, expected=None, socket=path)

    async def call(self, method: str, path: str, body: object = None, *, timeout: float = DEFAULT_TIMEOUT) -> Any:
        """Ask, and give the decoded JSON of the answer; None for an answer without content (204).

        :param path: begins with a slash; what comes from people in it is percent-encoded by the caller.
        :param timeout: seconds within which the answer must be complete.
        :raise Unreachable: no answer, or none that can be understood; it may have been done all the same.
        :raise NotTrusted: the other side is not who it should be, or takes us for a stranger.
        :raise NotAllowed: the other side does not allow it.
        :raise KvmoveError: what the other side raised.
        """
        limits = aiohttp.ClientTimeout(total=timeout, connect=min(CONNECT_TIMEOUT, timeout))
        async with self.open(method, path, body, limits=limits) as response:
            answer = await self._read(response)
            return None if response.status == 204 else self._decode(answer)

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        limits: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask, and give the answer to be read; errors while it is read become ours as in `call`."""
        try:
            async with self._connected().request(
                method,
                URL(self._base + path, encoded=True),
                json=body,
                headers={**(headers or {}), **self._bearer},
                timeout=limits,
                allow_redirects=False,
                server_hostname=None if self._expected is None else self._expected.dns_name,
                ssl=self._tls() if self._tls is not None else True,
            ) as response:
                if response.status >= 300:
                    raise self._refusal(response.status, await self._read(response))
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._translate(error) from error

    async def close(self) -> None:
        """Let go of the connections. Later calls raise Unreachable."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _connected(self) -> aiohttp.ClientSession:
        if self._closed:
            raise Unreachable(f"the connection to {self.shown} is closed")
        if self._session is None:
            connector = (
                aiohttp.UnixConnector(str(self._socket), keepalive_timeout=KEEP_ALIVE)
                if self._socket is not None
                else aiohttp.TCPConnector(keepalive_timeout=KEEP_ALIVE)
            )
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        answer = bytearray()
        async for chunk in response.content.iter_any():
            answer += chunk
            if len(answer) > _MAX_ANSWER:
                raise Unreachable(f"the answer of {self.shown} is longer than {_MAX_ANSWER} bytes")
        return bytes(answer)

    def _decode(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError as error:
            raise self._stranger("answers with something else than JSON") from error

    def _refusal(self, status: int, answer: bytes) -> KvmoveError:
        try:
            problem = json.loads(answer)
        except ValueError:
            problem = None
        if isinstance(problem, dict) and "code" in problem:
            return from_problem(problem)
        return self._stranger(f"answers with HTTP status {status} and no reason")

    def _stranger(self, what: str) -> Unreachable:
        return Unreachable(f"{self.shown} {what}", hint="is this the right address, and kvmove of the same version?")

    def _translate(self, error: Exception) -> KvmoveError:
        tls = tls_error(error)
        if isinstance(tls, ssl.SSLCertVerificationError):
            return NotTrusted(
                f"the other side is not {self.shown}: {tls.verify_message}",
                hint="is the address right, and are both certificates of the same authority and not expired?",
            )
        if tls is not None:
            return NotTrusted(
                f"{self.shown} refused the connection's encryption or our certificate: {tls.reason or tls}",
                hint="is our certificate of the cluster's authority, and not expired?",
            )
        if isinstance(error, TimeoutError):
            return Unreachable(f"{self.shown} gave no answer in time", hint=self._hint())
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if self._socket is not None and isinstance(cause, PermissionError):
            return NotAllowed(f"{self.shown} is not for this user", hint="run the command as root")
        if self._socket is not None and isinstance(cause, FileNotFoundError):
            return Unreachable(f"{self.shown} does not exist", hint=self._hint())
        reason = os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else str(cause)
        return Unreachable(f"{self.shown} gave no answer: {reason or type(cause).__name__}", hint=self._hint())

    def _hint(self) -> str:
        if self._expected is None:
            return "is the daemon running on this machine?"
        return f"is the {self._expected.role} running there, and does the network carry this port?"


def _https(address: str, expected: Identity) -> tuple[str, str]:
    """The address with its scheme, and how the party there is called in messages."""
    base = address if "://" in address else f"https://{address}"
    if not base.startswith("https://"):
        raise NotAllowed(f"{address} is not an https address", hint="parties are called over TLS alone")
    return base, f"{expected} at {base.partition('://')[2].rstrip('/')}"


def tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error that `error` is, holds or was raised from."""
    while error is not None:
        if isinstance(error, aiohttp.ClientConnectorCertificateError):  # a TLS error by type, without its fields
            error = error.certificate_error
        elif isinstance(error, aiohttp.ClientConnectorError):
            error = error.os_error
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__
    return None
