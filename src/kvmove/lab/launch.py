"""Starting a lab's supervisor and ending it, from the process that wants the lab.

An *owned* supervisor holds the reading end of a pipe to its owner and takes the lab down when the pipe closes,
whatever became of the owner. A *detached* one is nobody's child, was let go with the word `stay`, and stays until
`end_supervisor`. Both run in a session of their own: Ctrl-C reaches the owner, and the owner decides.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kvmove.errors import from_problem
from kvmove.lab import processes
from kvmove.lab.commands import LabFailed
from kvmove.lab.spec import LabSpec

STAY = b"stay\n"
READY_WITHIN = 60.0
END_WITHIN = 40.0


@asynccontextmanager
async def owned_supervisor(spec: LabSpec) -> AsyncIterator[None]:
    """Hold the lab of `spec` for the length of the `with`; on leaving it is gone, or LabFailed says what is not.

    :raise KvmoveError: the lab could not be built.
    """
    process = await asyncio.create_subprocess_exec(
        *_command(spec), stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    words = asyncio.create_task(_all_of(process.stderr))
    try:
        await _ready(process)
        yield
    except BaseException:
        await asyncio.shield(_end_owned(process))
        await words
        raise
    await asyncio.shield(_end_owned(process))
    if process.returncode != 0:
        last_words = (await words).decode(errors="replace").strip()
        raise LabFailed(f"the lab did not end in order (exit code {process.returncode}): {last_words}")


async def detached_supervisor(spec: LabSpec) -> None:
    """Start the lab of `spec` and leave it running. Until it is ready it is owned: if we die, it goes.

    :raise KvmoveError: the lab could not be built; nothing of it is left.
    """
    argv = ["setsid", "--fork", *_command(spec)]
    process = await asyncio.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    assert process.stdin is not None
    try:
        await _ready(process)
        process.stdin.write(STAY)
        await process.stdin.drain()
    finally:
        process.stdin.close()
        await process.wait()


def end_supervisor(pid: int, lab: str) -> None:
    """End the supervisor `pid` of that lab, and with it the lab; another process of that number is left alone.

    It is killed if it does not end within a minute or so: its hosts then die with it, and files are left to sweep.
    """
    for number, within in ((signal.SIGTERM, END_WITHIN), (signal.SIGKILL, 5.0)):
        if not _is_supervisor(pid, lab):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + within
        while _is_supervisor(pid, lab) and time.monotonic() < deadline:
            time.sleep(0.02)


def _command(spec: LabSpec) -> list[str]:
    return [sys.executable, "-m", "kvmove.lab.supervisor", "--spec", spec.model_dump_json()]


def _is_supervisor(pid: int, lab: str) -> bool:
    words = processes.argv(pid) if pid else []
    if "kvmove.lab.supervisor" not in words or not processes.alive(pid):
        return False
    with contextlib.suppress(ValueError, IndexError):
        return bool(json.loads(words[words.index("--spec") + 1])["name"] == lab)
    return False


async def _ready(process: Process) -> None:
    """Wait for the supervisor's one line; its problem becomes an error here."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_WITHIN):
            line = await process.stdout.readline()
    except TimeoutError as error:
        raise LabFailed(f"the lab was not up within {READY_WITHIN:.0f} s") from error
    message = json.loads(line) if line else {"problem": {"detail": "the lab's supervisor ended without a word"}}
    if "problem" in message:
        await process.wait()
        raise from_problem(message["problem"])


async def _end_owned(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_WITHIN):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()


async def _all_of(stream: asyncio.StreamReader | None) -> bytes:
    return await stream.read() if stream is not None else b""
