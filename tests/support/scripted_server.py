"""An HTTP server that answers as it is told and remembers what it was asked; over TLS or on a Unix socket."""

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class ScriptedServer:
    """`answer` handles every request; `asked` lists them as (method, path as sent, decoded body)."""

    answer: Handler
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.asked.append((request.method, request.raw_path, json.loads(body) if body else None))
        self.headers.append(dict(request.headers))
        return await self.answer(request)


def json_answer(value: object, status: int = 200) -> Handler:
    """Always this JSON."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(value, status=status)

    return answer


def chunks(*parts: bytes, break_off: bool = False) -> Handler:
    """A stream of these parts; `break_off` cuts the connection after the last instead of ending the stream."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        if break_off:
            assert request.transport is not None
            request.transport.close()
        else:
            await response.write_eof()
        return response

    return answer


@asynccontextmanager
async def scripted(
    answer: Handler, *, tls: ssl.SSLContext | None = None, socket: Path | None = None
) -> AsyncIterator[ScriptedServer]:
    """Serve on `socket`, or on a port of 127.0.0.1."""
    server = ScriptedServer(answer)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        if socket is not None:
            await web.UnixSite(runner, str(socket)).start()
        else:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
            server.port = runner.addresses[0][1]
        yield server
    finally:
        await runner.cleanup()
