"""A FastAPI application on a real port of 127.0.0.1 over mutual TLS, in the running event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from kvmove.manager.peer import IdentifyingProtocol
from kvmove.pki.contexts import server_context


class _Server(uvicorn.Server):
    """uvicorn, with an event that says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@asynccontextmanager
async def serve(app: FastAPI, pki: Path) -> AsyncIterator[int]:
    """Serve `app` as the party whose folder is `pki`; gives the port."""
    config = uvicorn.Config(
        app,
        http=IdentifyingProtocol,
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
        ssl_context_factory=lambda _config, _default: server_context(pki),
    )
    server = _Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await server.listening.wait()
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task
