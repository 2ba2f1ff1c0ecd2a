"""A QMP server that does what a test says: answers, errors, silence, events, hanging up."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

Answer = dict[str, Any] | None
GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}}, "capabilities": ["oob"]}}


class FakeQmp:
    """`commands` are all that came; `answers` maps a command to what to send back (without the id), None is silence."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []
        self.answers: dict[str, Answer | Callable[[dict[str, Any]], Answer]] = {}
        self.greets = True
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        if self.greets:
            self.send(GREETING)
        while line := await reader.readline():
            request = json.loads(line)
            self.commands.append(request)
            answer = self.answers.get(request.get("execute") or request.get("exec-oob"), {"return": {}})
            if callable(answer):
                answer = answer(request)
            if answer is not None:
                self.send(answer | {"id": request["id"]})
        writer.close()

    def send(self, message: dict[str, Any]) -> None:
        assert self._writer is not None
        self._writer.write(json.dumps(message).encode() + b"\r\n")

    def event(self, name: str, **data: Any) -> None:
        self.send({"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 500000}})

    def hang_up(self) -> None:
        assert self._writer is not None
        self._writer.close()

    def names(self) -> list[str]:
        return [request.get("execute") or request["exec-oob"] for request in self.commands]


@asynccontextmanager
async def fake_qmp(path: Path) -> AsyncIterator[FakeQmp]:
    """Listen at `path` until the block ends."""
    fake = FakeQmp()
    server = await asyncio.start_unix_server(fake.serve, path)
    try:
        yield fake
    finally:
        server.close()
        if fake._writer is not None:
            fake._writer.close()
        await server.wait_closed()
