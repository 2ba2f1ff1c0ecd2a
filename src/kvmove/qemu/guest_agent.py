"""Speaking to QEMU's guest agent inside a guest (qemu-ga), over the socket of its serial port.

It is the guest's program: it may be absent, old, busy, told to refuse commands, or lie. So nothing here is needed for
a move; every wait has a deadline, every answer a limit of length, and what is wrong becomes an error to be noted.

Invariant: an answer is the answer to what was asked. Each connection begins with guest-sync-delimited and a number that
nobody has used (QEMU docs/interop/qemu-ga-ref, guest-sync-delimited), which throws away what others left unread; a
connection that was given up in the middle is not used again.

QEMU takes one connection at a time; a second one gets no answer.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kvmove.errors import CheckFailed, Unreachable
from kvmove.qemu.instance import Instance

SYNC_SECONDS = 10.0
"""An agent that lives answers within a moment; one whose port was just opened looks at it once a second."""

TRIM_SECONDS = 300.0
"""A trim of a big file system takes minutes."""

_LONGEST_ANSWER = 1024 * 1024
_LONGEST_WORDS = 200
_DELIMITER = b"\xff"  # no part of JSON: makes the agent, and us, forget what came before


class Trimmed(NamedTuple):
    """What the guest did to its file systems: how many it trimmed, of how many that it knows."""

    done: int
    known: int


class GuestAgent:
    """The agent at the other end of one connection; make it with `connected`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ping(self) -> None:
        """:raise Unreachable: it does not answer any more. :raise CheckFailed: it refuses."""
        await self._execute("guest-ping")

    async def commands(self) -> dict[str, bool]:
        """The commands that it knows, and whether it carries each out. Raises as `ping` does."""
        found = await self._execute("guest-info")
        if not isinstance(found, dict) or not isinstance(listed := found.get("supported_commands"), list):
            raise _nonsense()
        return {str(it.get("name")): it.get("enabled") is True for it in listed if isinstance(it, dict)}

    async def trim(self, *, timeout: float = TRIM_SECONDS) -> Trimmed:
        """Let the guest tell its disks which blocks it does not use, so that thin disks shrink.

        :raise CheckFailed: it does not do that. :raise Unreachable: it has not done it within `timeout` seconds; it may
            be at it still, and answers nothing else before.
        """
        if not (await self.commands()).get("guest-fstrim", False):
            raise CheckFailed("the agent in the guest does not trim file systems")
        found = await self._execute("guest-fstrim", timeout=timeout)
        paths = found.get("paths") if isinstance(found, dict) else None
        if not isinstance(paths, list):
            raise _nonsense()
        return Trimmed(sum(isinstance(it, dict) and "error" not in it for it in paths), len(paths))

    async def sync(self) -> None:
        """:raise Unreachable: no agent answers. :raise CheckFailed: what answers is none."""
        number = secrets.randbits(31)
        async with _answers_within(SYNC_SECONDS):
            self._send("guest-sync-delimited", {"id": number}, before=_DELIMITER)
            while await self._answer_after_delimiter() != {"return": number}:
                pass  # the answer to somebody before us

    async def _execute(self, command: str, *, timeout: float = SYNC_SECONDS) -> Any:
        async with _answers_within(timeout):
            self._send(command, {})
            answer = _parsed(await self._reader.readuntil(b"\n"))
        if "return" not in answer:
            error = answer.get("error")
            words = str(error.get("desc") if isinstance(error, dict) else error)[:_LONGEST_WORDS]
            raise CheckFailed(f"the agent in the guest refuses {command}: {words}")
        return answer["return"]

    def _send(self, command: str, arguments: dict[str, Any], before: bytes = b"") -> None:
        self._writer.write(before + json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")

    async def _answer_after_delimiter(self) -> dict[str, Any]:
        await self._reader.readuntil(_DELIMITER)
        return _parsed(await self._reader.readuntil(b"\n"))


@asynccontextmanager
async def connected(socket: Path) -> AsyncIterator[GuestAgent]:
    """The agent of the guest whose serial port is at `socket`, in step.

    :raise Unreachable: there is no such socket, or no agent answers in the guest.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(socket, limit=_LONGEST_ANSWER)
    except OSError as error:
        raise Unreachable(f"the guest's agent cannot be reached: {socket}: {error.strerror}") from error
    try:
        agent = GuestAgent(reader, writer)
        await agent.sync()
        yield agent
    finally:
        writer.transport.abort()


async def trim_guest(instance: Instance, *, timeout: float = TRIM_SECONDS) -> str:
    """Ask the guest to trim its file systems; in a sentence what came of it. Raises nothing of ours.

    Empty when the VM is defined without an agent. Takes at most some 30 s more than `timeout`.
    """
    if instance.agent_socket is None:
        return ""
    try:
        async with connected(instance.agent_socket) as agent:
            trimmed = await agent.trim(timeout=timeout)
    except (CheckFailed, Unreachable) as error:
        return f"the guest was not trimmed: {error.detail}"
    of = f" of {trimmed.known}" if trimmed.done < trimmed.known else ""
    return f"the guest has trimmed {trimmed.done}{of} file system{'s' if trimmed.known != 1 else ''}"


@asynccontextmanager
async def _answers_within(seconds: float) -> AsyncIterator[None]:
    """A deadline, and what goes wrong before it in our words."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise Unreachable(f"no agent answers in the guest within {seconds:g} s") from error
    except (OSError, asyncio.IncompleteReadError) as error:
        raise Unreachable("QEMU has closed the port of the guest's agent") from error
    except asyncio.LimitOverrunError as error:
        raise _nonsense() from error


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise _nonsense() from error
    if not isinstance(answer, dict):
        raise _nonsense()
    return answer


def _nonsense() -> CheckFailed:
    return CheckFailed("the agent in the guest gives an answer that is none")
