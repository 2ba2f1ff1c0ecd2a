"""One lab and one guest for all cases; each case moves the guest, so each also shows that the one before left it
movable."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.support.fault_lab import FaultLab


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def faults() -> AsyncIterator[FaultLab]:
    async with FaultLab.start() as lab:
        yield lab
