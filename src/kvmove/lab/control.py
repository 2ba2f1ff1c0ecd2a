"""The talk between a lab's supervisor and those who use the lab, over a Unix socket: a line of JSON each way.

Who may connect is who may enter the lab's run folder: root.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kvmove.errors import InvalidInput, KvmoveError, Unreachable, from_problem

Answer = dict[str, Any]
Handler = Callable[[dict[str, Any]], Awaitable[Answer]]

LINE_LIMIT = 1 << 20


async def ask(socket: Path, command: str, **arguments: object) -> Answer:
    """Ask the supervisor behind `socket` and return its answer.

    :raise Unreachable: nobody listens, or the supervisor ended before it answered.
    :raise KvmoveError: the supervisor's own refusal.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(socket, limit=LINE_LIMIT)
        try:
            writer.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            await writer.drain()
            line = await reader.readline()
        finally:
            writer.close()
    except OSError as error:
        raise Unreachable(f"no lab answers at {socket}", hint="start one with `kvmove lab up`") from error
    if not line:
        raise Unreachable(f"the lab's supervisor ended before it answered {command!r}")
    answer: Answer = json.loads(line)
    if "problem" in answer:
        raise from_problem(answer["problem"])
    return answer


async def serve(socket: Path, handler: Handler) -> asyncio.Server:
    """Answer at `socket` with what `handler` makes of each question; its errors travel as problems."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            if line:
                writer.write(json.dumps(await _handled(handler, line)).encode() + b"\n")
                await writer.drain()
        except OSError:
            pass  # the asker went away; there is nobody to tell
        finally:
            writer.close()

    return await asyncio.start_unix_server(answer, socket, limit=LINE_LIMIT)


async def _handled(handler: Handler, line: bytes) -> Answer:
    try:
        return await handler(json.loads(line))
    except KvmoveError as error:
        return {"problem": error.problem()}
    except (KeyError, ValueError, ValidationError) as error:
        return {"problem": InvalidInput(f"the question was not understood: {error!r}").problem()}
