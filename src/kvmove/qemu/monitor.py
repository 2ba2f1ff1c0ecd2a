"""A QMP client: commands with deadlines, and the events of one QEMU in order.

QEMU answers on a Unix socket that takes one client at a time. A monitor reads everything that arrives in one task;
answers are matched by id, events are numbered and kept in a bounded ring, so that a waiter who begins late loses
nothing.

Invariant: no call outlasts its deadline, whatever QEMU does. A QEMU whose main loop hangs (a mirror target that does
not answer while QEMU drains) never answers in-band commands; what still works is `execute_oob` on a second monitor
that was connected with `oob=True`.

Not done here: no reconnecting (connect anew and ask QEMU for its state), and no knowledge of any command.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple, Self

from kvmove.errors import QemuError, Unreachable

_log = logging.getLogger(__name__)

COMMAND_SECONDS = 10.0
"""Deadline of a command for which the caller names none."""

EVENTS_KEPT = 1024
_LONGEST_LINE = 32 * 1024 * 1024  # the answer of query-qmp-schema is one line of some hundred KiB


class Event(NamedTuple):
    """An event of QEMU. `sequence` counts from 1 per connection; `seconds` is QEMU's wall clock at the event."""

    sequence: int
    name: str
    data: dict[str, Any]
    seconds: float


Predicate = Callable[[Event], bool]
Callback = Callable[[Event], None]


class Monitor:
    """One connection to a QEMU. Make it with `Monitor.connect`; not safe to share between event loops."""

    def __init__(self, path: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.path = path
        self.greeting: dict[str, Any] = {}
        self._reader = reader
        self._writer = writer
        self._next_id = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._sequence = 0
        self._callbacks: list[Callback] = []
        self._arrived = asyncio.Condition()
        self._lost: str | None = None
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, path: Path, *, oob: bool = False, timeout: float = COMMAND_SECONDS) -> Self:
        """Connect, read the greeting and negotiate; with `oob`, out-of-band commands are enabled.

        :raise Unreachable: nobody listens, another client holds the socket, or QEMU does not answer. Nothing is left.
        """
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_unix_connection(path, limit=_LONGEST_LINE)
        except (OSError, TimeoutError) as error:
            raise _unreachable(f"nobody answers at QEMU's socket {path}: {error}") from error
        monitor = cls(path, reader, writer)
        try:
            async with asyncio.timeout(timeout):
                await monitor._negotiate(oob)
        except (OSError, TimeoutError, ValueError) as error:
            await monitor.close()
            raise _unreachable(f"QEMU at {path} does not greet", "It hangs, or another program holds it.") from error
        except BaseException:
            await monitor.close()
            raise
        return monitor

    async def _negotiate(self, oob: bool) -> None:
        line = await self._reader.readline()
        if not line:
            raise ConnectionResetError("closed before the greeting")
        self.greeting = json.loads(line).get("QMP", {})
        self._task = asyncio.create_task(self._read(), name=f"qmp {self.path}")
        enable = {"enable": ["oob"]} if oob else {}
        await self.execute("qmp_capabilities", enable)

    # -- commands --------------------------------------------------------------------------------------------------

    async def execute(
        self, command: str, arguments: dict[str, Any] | None = None, *, timeout: float = COMMAND_SECONDS
    ) -> Any:
        """Run a command and return what QEMU returns.

        :raise QemuError: QEMU refused it; nothing was changed, unless the command's own text says else.
        :raise Unreachable: no answer in `timeout` seconds, or the connection ended. Whether QEMU carried the command
            out, or yet will, is unknown: ask for its state. A late answer is dropped.
        """
        return await self._call("execute", command, arguments, timeout)

    async def execute_oob(
        self, command: str, arguments: dict[str, Any] | None = None, *, timeout: float = COMMAND_SECONDS
    ) -> Any:
        """Run a command past QEMU's main loop; needs `oob=True` at connect. Works while the main loop hangs.

        Raises as `execute` does.
        """
        return await self._call("exec-oob", command, arguments, timeout)

    async def _call(self, verb: str, command: str, arguments: dict[str, Any] | None, timeout: float) -> Any:
        if self._lost is not None:
            raise _unreachable(f"QEMU is gone ({self._lost}); {command} was not sent")
        self._next_id += 1
        number = self._next_id
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        request = {verb: command, "id": number} | ({"arguments": arguments} if arguments else {})
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(json.dumps(request).encode() + b"\n")
                await self._writer.drain()
                answer = await future
        except TimeoutError as error:
            raise _unreachable(f"QEMU did not answer {command} within {timeout:g} s") from error
        except OSError as error:
            raise _unreachable(f"QEMU closed its socket before it answered {command}: {error}") from error
        finally:
            self._answers.pop(number, None)
            if not future.cancel() and not future.cancelled():
                future.exception()  # seen, so that it is not reported as never retrieved
        if "error" in answer:
            raise QemuError(command, str(answer["error"].get("class")), str(answer["error"].get("desc")))
        return answer.get("return")

    # -- events ----------------------------------------------------------------------------------------------------

    @property
    def sequence(self) -> int:
        """Number of the newest event; take it before a command and give it to `wait_event` as `since`."""
        return self._sequence

    @property
    def lost(self) -> str | None:
        """Why the connection ended, or None while it stands."""
        return self._lost

    def on_event(self, callback: Callback) -> Callable[[], None]:
        """Call `callback` for every event from now on, in order, in the event loop; the result takes it off again."""
        self._callbacks.append(callback)

        def remove() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks.remove(callback)

        return remove

    async def wait_event(
        self,
        names: str | Collection[str],
        predicate: Predicate | None = None,
        *,
        timeout: float,
        since: int | None = None,
    ) -> Event:
        """The first event after number `since` (default: from now) that has one of `names` and meets `predicate`.

        :raise Unreachable: none came in `timeout` seconds, or the connection ended and none had come before.
        """
        wanted = {names} if isinstance(names, str) else set(names)
        seen = self._sequence if since is None else since

        def find() -> Event | None:
            fitting = (e for e in self._events if e.sequence > seen and e.name in wanted)
            return next((e for e in fitting if predicate is None or predicate(e)), None)

        try:
            async with asyncio.timeout(timeout), self._arrived:
                await self._arrived.wait_for(lambda: find() is not None or self._lost is not None)
        except TimeoutError as error:
            raise _unreachable(f"QEMU sent no {'/'.join(sorted(wanted))} within {timeout:g} s") from error
        event = find()
        if event is None:
            raise _unreachable(f"QEMU is gone ({self._lost}) while {'/'.join(sorted(wanted))} was awaited")
        return event

    # -- reading ---------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        reason = "its socket was closed"
        try:
            while line := await self._reader.readline():
                await self._dispatch(json.loads(line))
        except (OSError, ValueError) as error:
            reason = str(error)
        finally:
            await self._end(reason)

    async def _dispatch(self, message: dict[str, Any]) -> None:
        if "event" in message:
            await self._take_event(message)
            return
        future = self._answers.get(message.get("id", -1))
        if future is not None and not future.done():
            future.set_result(message)
        elif "error" in message:
            _log.warning("%s: an answer that nobody waits for: %s", self.path, message["error"])

    async def _take_event(self, message: dict[str, Any]) -> None:
        stamp = message.get("timestamp", {})
        seconds = stamp.get("seconds", 0) + stamp.get("microseconds", 0) / 1e6
        self._sequence += 1
        event = Event(self._sequence, str(message["event"]), message.get("data", {}), seconds)
        self._events.append(event)
        for callback in tuple(self._callbacks):
            try:
                callback(event)
            except Exception:
                _log.exception("%s: a listener failed on %s", self.path, event.name)
        async with self._arrived:
            self._arrived.notify_all()

    async def _end(self, reason: str) -> None:
        if self._lost is None:
            self._lost = reason
        self._writer.close()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(ConnectionResetError(reason))
        self._ended.set()
        async with self._arrived:
            self._arrived.notify_all()

    async def wait_lost(self) -> str:
        """Wait until the connection ends (QEMU exited, or `close` was called); the reason. Has no deadline."""
        await self._ended.wait()
        return self._lost or ""

    async def close(self) -> None:
        """Close the connection; whoever waits gets Unreachable. QEMU runs on. May be called twice."""
        if self._lost is None:
            self._lost = "the monitor was closed"
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        else:
            await self._end("the monitor was closed")
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def _unreachable(detail: str, hint: str = "") -> Unreachable:
    return Unreachable(detail, hint=hint or "Look at the VM's qemu.log; its state must be read anew.")
