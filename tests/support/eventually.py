"""Waits for something that comes about by itself, as long as it takes; only a hang is a failure."""

import asyncio
import itertools
from collections.abc import Callable

_HANG_SECONDS = 30.0


async def eventually(holds: Callable[[], bool]) -> None:
    """Return when `holds()` is true; raise TimeoutError when it never is."""
    async with asyncio.timeout(_HANG_SECONDS):
        for _ in itertools.count():
            if holds():
                return
            await asyncio.sleep(0.01)
