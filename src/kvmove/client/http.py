"""One party's interface as typed calls and streams: JSON in and out, line by line or as server-sent events.

Invariant: what is returned has the type that was asked for. An answer that does not fit it is `Unreachable` (the other
side is of another version, or is not kvmove), never a half-understood value. A stream that ends has ended by the other
side's will; one that breaks, or is silent for too long, raises `Unreachable`.

It does not reconnect; whoever follows a stream decides that.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, TypeAdapter, ValidationError

from kvmove.errors import InvalidInput, Unreachable
from kvmove.pki.peer import CONNECT_TIMEOUT, DEFAULT_TIMEOUT, Peer

T = TypeVar("T")

SILENCE = 60.0
"""Seconds without a byte after which a stream counts as broken. The manager sends a comment every 15 s."""

_MAX_LINE = 8 * 1024 * 1024


class ServerSentEvent(NamedTuple):
    """One event of a `text/event-stream`; `id` is the last one that the stream gave."""

    event: str
    id: str
    data: str


class HttpClient(Peer):
    """A `Peer` whose answers are parsed. Also a context manager that closes it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ask(
        self, answer: TypeAdapter[T], method: str, path: str, body: object = None, *, timeout: float = DEFAULT_TIMEOUT
    ) -> T:
        """Call and parse the answer. `body` may be a model, or hold models as values of a dict.

        :param timeout: seconds within which the answer must be complete.
        :raise Unreachable: no answer, or not one of this type; it may have been done all the same.
        :raise KvmoveError: what the other side raised.
        """
        return self._parse(answer, await self.call(method, path, as_json(body), timeout=timeout))

    async def lines(self, answer: TypeAdapter[T], path: str) -> AsyncGenerator[T, None]:
        """The values of an `application/x-ndjson` stream, one a line, until it ends.

        :raise Unreachable: it broke, fell silent, or a line is not of this type.
        """
        async with (
            self.open("GET", path, limits=_stream_limits()) as response,
            aclosing(self._split(response)) as lines,
        ):
            async for line in lines:
                if line:
                    yield self.parse_text(answer, line)

    async def events(self, path: str, last_event_id: str | None = None) -> AsyncGenerator[ServerSentEvent, None]:
        """The events of a server-sent stream, until it ends; with `last_event_id`, those after it.

        :raise Unreachable: it broke or fell silent.
        """
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        async with (
            self.open("GET", path, headers=headers, limits=_stream_limits()) as response,
            aclosing(self._split(response)) as lines,
        ):
            async for event in _assemble(lines):
                yield event

    def _parse(self, answer: TypeAdapter[T], value: Any) -> T:
        try:
            return answer.validate_python(value)
        except ValidationError as error:
            raise self._not_understood(error) from error

    def parse_text(self, answer: TypeAdapter[T], text: str) -> T:
        """One value out of a stream.

        :raise Unreachable: it is not of this type.
        """
        try:
            return answer.validate_json(text)
        except ValidationError as error:
            raise self._not_understood(error) from error

    def _not_understood(self, error: ValidationError) -> Unreachable:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        return Unreachable(
            f"the answer of {self.shown} is not understood ({place}: {first['msg']})",
            hint="run the same version of kvmove on both sides",
        )

    async def _split(self, response: aiohttp.ClientResponse) -> AsyncGenerator[str, None]:
        pending = bytearray()
        async for chunk in response.content.iter_any():
            pending += chunk
            *complete, rest = pending.split(b"\n")
            pending = bytearray(rest)
            if len(pending) > _MAX_LINE:
                raise Unreachable(f"{self.shown} sends a line longer than {_MAX_LINE} bytes")
            for line in complete:
                yield line.decode(errors="replace").removesuffix("\r")
        if pending:
            raise Unreachable(f"the stream of {self.shown} broke off within a line", hint="ask again")


async def _assemble(lines: AsyncIterator[str]) -> AsyncGenerator[ServerSentEvent, None]:
    """Events out of lines as the HTML standard has them: a blank line ends an event; a cut-off one is dropped."""
    name, last_id, data = "", "", list[str]()
    async for line in lines:
        if not line:
            if data:
                yield ServerSentEvent(name or "message", last_id, "\n".join(data))
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            last_id = value


def segment(text: str) -> str:
    """What a person wrote, as one segment of a path.

    :raise InvalidInput: it is empty or a dot name, which no path can hold.
    """
    if text in {"", ".", ".."}:
        raise InvalidInput(f"{text!r} is not a name")
    return quote(text, safe="")


def as_json(body: object) -> object:
    """`body` with every model in it as what JSON knows."""
    if isinstance(body, BaseModel):
        return body.model_dump(mode="json")
    if isinstance(body, dict):
        return {key: as_json(value) for key, value in body.items()}
    return body


def _stream_limits() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT, sock_read=SILENCE)
