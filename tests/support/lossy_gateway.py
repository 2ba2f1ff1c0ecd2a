"""A door before a real etcd that loses requests or answers on purpose."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import aiohttp
from aiohttp import web

Gateway = TypeVar("Gateway", bound="LossyGateway")


class LossyGateway:
    """What becomes of the next changes and reads: the heads of `changes` and `reads`; "" or nothing for no loss.

    "request": the connection breaks before etcd hears of it. "answer": it breaks after etcd has done it. "late": etcd
    has done it, and says what it says when its leader is slow. "hang": etcd has done it, and no answer ever comes.
    """

    def __init__(self, etcd: str) -> None:
        self._etcd = etcd
        self.changes: list[str] = []
        self.reads: list[str] = []
        self.seen: list[str] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        fates = self.changes if body.get("compare") else self.reads
        fate = fates.pop(0) if fates else ""
        self.seen.append(("change" if body.get("compare") else "read") + (f": {fate}" if fate else ""))
        if fate == "request":
            return _broken(request)
        async with aiohttp.ClientSession() as session, session.post(self._etcd + request.path, json=body) as response:
            answer = await response.read()
        if fate == "answer":
            return _broken(request)
        if fate == "hang":
            await asyncio.sleep(3600)
        if fate == "late":
            said = {"error": "etcdserver: request timed out", "message": "etcdserver: request timed out", "code": 14}
            return web.Response(status=503, text=json.dumps(said), content_type="application/json")
        return web.Response(status=response.status, body=answer, content_type="application/json")


def _broken(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


@asynccontextmanager
async def lossy_gateway(etcd: str, kind: type[Gateway]) -> AsyncIterator[Gateway]:
    """The door of this kind before the etcd at `etcd`, open on a port of 127.0.0.1."""
    gateway = kind(etcd)
    app = web.Application()
    app.router.add_post("/{path:.*}", gateway.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield gateway
    finally:
        await runner.cleanup()
