"""Waits for something that has to be asked for, as long as it takes; only a hang is a failure."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

_HANG_SECONDS = 120.0


async def comes_true(asked: Callable[[], Awaitable[bool]], between: float = 0.5) -> None:
    """Return when `asked()` is true, asked again after `between` seconds; raise TimeoutError when it never is."""
    async with asyncio.timeout(_HANG_SECONDS):
        for _ in itertools.count():
            if await asked():
                return
            await asyncio.sleep(between)
