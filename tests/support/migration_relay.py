"""The simplest relay of migration channels over Unix sockets: main channel first, bytes both ways, ends passed on."""

import asyncio
from pathlib import Path

MAIN_MAGIC = b"QEVM"


class MigrationRelay:
    """Use as an async context manager; `channels` counts what came. `cut` ends all of them at once.

    A `stalled` relay accepts and reads nothing.
    """

    def __init__(self, listen: Path, forward: Path, *, stalled: bool = False) -> None:
        self._stalled = stalled
        self._listen, self._forward = listen, forward
        self._main = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.channels = 0

    async def __aenter__(self) -> "MigrationRelay":
        self._server = await asyncio.start_unix_server(self._accept, self._listen)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.append(writer)
        if self._stalled:
            await asyncio.Event().wait()
        first = await reader.readexactly(4)
        is_main = first == MAIN_MAGIC
        if not is_main:
            await self._main.wait()
        there_reader, there_writer = await asyncio.open_unix_connection(self._forward)
        self._writers.append(there_writer)
        self.channels += 1
        if is_main:
            self._main.set()
        there_writer.write(first)
        await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
        for each in (writer, there_writer):
            each.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()
