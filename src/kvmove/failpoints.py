"""Places in a move where a test can stop, break or kill the agent. Inert unless KVMOVE_FAILPOINTS names a folder.

A file in that folder called like the point says what happens there, each time it is reached:

    hold    wait until the file is gone (or says something else); meanwhile `<point>.reached` exists
    kill    SIGKILL for this process
    fail    raise MoveFailed

The points stand in the procedures of source and destination, at every step of the hand-over.
"""

import asyncio
import os
import signal
from pathlib import Path

from kvmove.errors import MoveFailed

VARIABLE = "KVMOVE_FAILPOINTS"
_LOOK_SECONDS = 0.01


async def reach(point: str) -> None:
    """The procedure is at `point`.

    :raise MoveFailed: a test wants the step to fail.
    """
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return
    file = Path(folder) / point
    reached = Path(folder) / f"{point}.reached"
    while (action := _read(file)) == "hold":
        reached.touch()
        await asyncio.sleep(_LOOK_SECONDS)
    reached.unlink(missing_ok=True)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "fail":
        raise MoveFailed(f"A test wants {point} to fail.")


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return ""
