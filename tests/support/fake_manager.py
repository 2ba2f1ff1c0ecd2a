"""A manager of canned answers on a Unix socket, in a thread of its own: what the command line is tested against."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from kvmove.errors import KvmoveError, NotFound, Unreachable
from kvmove.model.task import Task

Answer = BaseModel | Sequence[BaseModel] | KvmoveError | None


class FakeManager:
    """`answers` maps `METHOD /path` to what is said; `asked` holds what came, with the body decoded, `queries`
    what stood behind each path.

    `streams` maps a task's id to one list of tasks for each time that its events are asked for; a stream that does not
    end with an ended task breaks off there, but for the last one, which stays open and takes what `push` gives it. An
    empty list is a manager that is away.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, Any]] = []
        self.queries: list[str] = []
        self.streams: dict[str, list[list[Task]]] = {}
        self.on_ask: Callable[[str], None] = lambda _key: None
        self._end = asyncio.Event()
        self._pushed: asyncio.Queue[Task | None] = asyncio.Queue()

    def push(self, task: Task) -> None:
        """One more state for the stream that is open. To be called by `on_ask`."""
        self._pushed.put_nowait(task)

    @property
    def server(self) -> str:
        return f"unix:{self.socket}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        key = f"{request.method} {request.path.removeprefix('/api/v1')}"
        text = await request.text()
        self.asked.append((key, json.loads(text) if text else None))
        self.queries.append(request.query_string)
        self.on_ask(key)
        if key.endswith("/events"):
            return await self._stream(request, key.split("/")[-2])
        answer = self.answers.get(key, NotFound(f"nothing is prepared for {key}"))
        if isinstance(answer, KvmoveError):
            return _problem(answer)
        if answer is None:
            return web.Response(status=204)
        return web.json_response(_plain(answer))

    async def _stream(self, request: web.Request, task_id: str) -> web.StreamResponse:
        streams = self.streams[task_id]
        tasks = streams.pop(0) if len(streams) > 1 else streams[0]
        if not tasks:
            return _problem(Unreachable("away"))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with suppress(ConnectionResetError):
            for task in tasks:
                await _send(response, task)
                await asyncio.sleep(0.01)
            if not tasks[-1].ended_state and streams[0] is tasks:
                while (pushed := await self._pushed.get()) is not None:
                    await _send(response, pushed)
        return response

    def serve(self, ready: threading.Event, ends: list[Callable[[], None]]) -> None:
        asyncio.run(self._serve(ready, ends))

    async def _serve(self, ready: threading.Event, ends: list[Callable[[], None]]) -> None:
        loop = asyncio.get_running_loop()

        def end() -> None:
            loop.call_soon_threadsafe(self._end.set)

        ends.append(end)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        await web.UnixSite(runner, str(self.socket)).start()
        ready.set()
        await self._end.wait()
        self._pushed.put_nowait(None)
        await runner.cleanup()


@contextmanager
def running_manager(folder: Path) -> Iterator[FakeManager]:
    """A fake manager that serves on a socket in `folder` meanwhile."""
    fake, ready, ends = FakeManager(folder / "manager.sock"), threading.Event(), list[Callable[[], None]]()
    thread = threading.Thread(target=fake.serve, args=(ready, ends), name="fake manager")
    thread.start()
    ready.wait()
    try:
        yield fake
    finally:
        ends[0]()
        thread.join()


def _problem(error: KvmoveError) -> web.Response:
    return web.json_response(error.problem(), status=error.status, content_type="application/problem+json")


async def _send(response: web.StreamResponse, task: Task) -> None:
    data = f"event: task\nid: {task.revision}\ndata: {task.model_dump_json()}\n\n"
    await response.write(data.encode())


def _plain(answer: BaseModel | Sequence[BaseModel]) -> Any:
    return answer.model_dump(mode="json") if isinstance(answer, BaseModel) else [_plain(item) for item in answer]
