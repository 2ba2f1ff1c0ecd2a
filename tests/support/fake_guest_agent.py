"""An agent in a guest that does what a test says: answers, refuses, is silent, talks nonsense."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any


class FakeGuestAgent:
    """`answers` maps a command to the bytes that go back, or to the JSON; None is silence. `asked` lists commands."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.before_sync = b""
        self.answers: dict[str, Any] = {
            "guest-ping": {"return": {}},
            "guest-info": {"return": {"supported_commands": [{"name": "guest-fstrim", "enabled": True}]}},
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                request = json.loads(line.lstrip(b"\xff"))
                self.asked.append(request["execute"])
                writer.write(self._answer(request))
        finally:
            writer.close()

    def _answer(self, request: dict[str, Any]) -> bytes:
        if request["execute"] == "guest-sync-delimited" and "guest-sync-delimited" not in self.answers:
            return self.before_sync + b"\xff" + json.dumps({"return": request["arguments"]["id"]}).encode() + b"\n"
        answer = self.answers[request["execute"]]
        if answer is None or isinstance(answer, bytes):
            return answer or b""
        return json.dumps(answer).encode() + b"\n"


@asynccontextmanager
async def fake_guest_agent(path: Path) -> AsyncIterator[FakeGuestAgent]:
    """Listen at `path` until the block ends."""
    fake = FakeGuestAgent()
    server = await asyncio.start_unix_server(fake.serve, path)
    try:
        yield fake
    finally:
        server.close()
        await server.wait_closed()
