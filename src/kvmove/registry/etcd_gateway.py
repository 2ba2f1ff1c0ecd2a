"""etcd's v3 API through its own HTTP/JSON gateway: a change to one member, a read from whichever answers.

Invariant: only an answer with status 200 that carries the header of the one cluster is an answer. All the rest is
Unreachable, and a change may then have happened or may yet happen: a member that says "request timed out" has handed
the change to its leader. So a change is sent once, to one member; a read may be asked anywhere, any number of times.

Fields that are zero are left out of the gateway's JSON, and 64-bit numbers are strings (proto3's JSON mapping); keys
and values are base64. Unknown fields of a request are ignored by etcd without a word.

It knows nothing of ownership, follows no redirects and reads no proxy settings. Users and passwords of etcd are not
supported: the gateway cannot tell them from a certificate (https://etcd.io/docs/v3.4/op-guide/authentication/).
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

from kvmove.errors import Unreachable
from kvmove.pki.peer import tls_error

_ROUND_PAUSE = 0.1  # between two rounds over all members; a new leader is there after about a second
_HINT = "are most of etcd's members up, can this machine reach them, and do both sides trust the certificates?"


class Answer(NamedTuple):
    """What the member at the endpoint `member` said."""

    member: str
    body: dict[str, Any]


class _NoAnswer(Exception):
    """One member gave nothing that counts; the text says why."""


class EtcdGateway:
    """The members at `endpoints` (`https://HOST:2379`) of one etcd cluster. It connects at its first question.

    :param tls: our certificate and the authority of theirs; None for endpoints over plain http.
    :param timeout: seconds that everything within one `deadline` may take.
    """

    def __init__(self, endpoints: Sequence[str], tls: ssl.SSLContext | None, *, timeout: float) -> None:
        self._endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        self._tls = tls
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._closing = asyncio.Event()
        self._cluster: str | None = None
        self._reasons: dict[str, str] = {}

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """The time that one call of the registry has; when it is over, the call is Unreachable."""
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError as error:
            raise self._silent(f"within {self._timeout:g} s") from error

    async def read(self, path: str, body: dict[str, Any]) -> Answer:
        """Ask the members in turn, round after round until the `deadline`; begins with the one that answered last.

        `body` must change nothing. A member that hangs costs its share of the time, not all of it.

        :raise Unreachable: the gateway is closed.
        """
        share = self._timeout / len(self._endpoints)
        while True:
            for member in list(self._endpoints):
                try:
                    async with asyncio.timeout(share):
                        answer = await self._post(member, path, body)
                except TimeoutError:
                    self._reasons[member] = "no answer in time"
                except _NoAnswer as error:
                    self._reasons[member] = str(error)
                else:
                    self._prefer(member)
                    return Answer(member, answer)
            await asyncio.sleep(_ROUND_PAUSE)

    async def change(self, member: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask this one member, once.

        :raise Unreachable: it gave no answer. What was asked may have been done, or may yet be.
        """
        self._reasons[member] = "no answer in time"
        try:
            return await self._post(member, path, body)
        except _NoAnswer as error:
            self._reasons[member] = str(error)
            raise self._silent("to a change, which may have taken effect") from error

    async def stream(
        self, member: str, path: str, body: dict[str, Any], *, silence: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What this one member says by and by. Ends when it closes the stream, or says nothing for `silence` seconds:
        it may have been cut off from the others.

        :raise Unreachable: it gives no stream, or breaks it.
        """
        tls = True if self._tls is None else self._tls
        try:
            async with self._connected().post(
                member + path, json=body, ssl=tls, allow_redirects=False, timeout=aiohttp.ClientTimeout()
            ) as response:
                if response.status != 200:
                    raise _NoAnswer(f"answers with HTTP status {response.status}")
                async for line in _lines(response, silence, self._closing):
                    result = json.loads(line).get("result")
                    self._check_cluster(result if isinstance(result, dict) else {})
                    yield result
        except (aiohttp.ClientError, OSError, ValueError, AttributeError, _NoAnswer) as error:
            raise Unreachable(f"{member}: {_reason(error)}", hint=_HINT) from error

    @property
    def is_closed(self) -> bool:
        return self._closing.is_set()

    @property
    def members(self) -> Sequence[str]:
        """Their endpoints."""
        return tuple(self._endpoints)

    async def close(self) -> None:
        """Let go of the connections. Later questions raise Unreachable."""
        self._closing.set()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _post(self, member: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        tls = True if self._tls is None else self._tls
        try:
            async with self._connected().post(
                member + path, json=body, ssl=tls, allow_redirects=False, timeout=aiohttp.ClientTimeout()
            ) as response:
                answer = await _decoded(response)
        except (aiohttp.ClientError, OSError) as error:
            raise _NoAnswer(_reason(error)) from error
        self._check_cluster(answer)
        self._reasons.pop(member, None)
        return answer

    def _check_cluster(self, answer: dict[str, Any]) -> None:
        """Two clusters behind one list of endpoints would be two registries: a VM could have two owners."""
        header = answer.get("header")
        cluster = header.get("cluster_id") if isinstance(header, dict) else None
        if not isinstance(cluster, str):
            raise _NoAnswer("answers as no etcd does")
        if self._cluster is None:
            self._cluster = cluster
        if cluster != self._cluster:
            raise _NoAnswer(f"is a member of cluster {cluster}, and the others are of {self._cluster}")

    def _connected(self) -> aiohttp.ClientSession:
        if self.is_closed:
            raise Unreachable("the connection to etcd is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    def _prefer(self, member: str) -> None:
        self._endpoints.sort(key=lambda endpoint: endpoint != member)

    def _silent(self, when: str) -> Unreachable:
        reasons = "; ".join(f"{member}: {reason}" for member, reason in sorted(self._reasons.items()))
        return Unreachable(f"etcd gave no answer {when} ({reasons or 'no member was asked to the end'})", hint=_HINT)


async def _lines(
    response: aiohttp.ClientResponse, silence: float, closing: asyncio.Event
) -> AsyncGenerator[bytes, None]:
    """One answer a line, however long, until the end, the silence or the gateway's close."""
    rest = b""
    closed = asyncio.ensure_future(closing.wait())
    try:
        while True:
            reading = asyncio.ensure_future(response.content.readany())
            try:
                await asyncio.wait({reading, closed}, timeout=silence, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done() or not (more := reading.result()):
                    return
            finally:
                reading.cancel()
            *lines, rest = (rest + more).split(b"\n")
            for line in lines:
                if line.strip():
                    yield line
    finally:
        closed.cancel()


async def _decoded(response: aiohttp.ClientResponse) -> dict[str, Any]:
    try:
        answer = await response.json(content_type=None)
    except ValueError:
        answer = None
    if response.status == 200 and isinstance(answer, dict):
        result = answer.get("result", answer)  # a stream wraps each of its answers
        if isinstance(result, dict):
            return result
    said = answer.get("error") if isinstance(answer, dict) else None
    raise _NoAnswer(str(said or f"answers with HTTP status {response.status} and no reason"))


def _reason(error: Exception) -> str:
    tls = tls_error(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {tls.verify_message}"
    if tls is not None:
        return f"it refuses our certificate or encryption: {tls.reason or tls}"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno)
    return str(cause) or type(cause).__name__
