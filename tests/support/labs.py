"""Labs for tests: of a name of their own, and checked to leave nothing behind."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kvmove.lab.lab import Lab
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.units import GIB

SMALL = DatastoreSpec(size=GIB)


def lab_name(purpose: str) -> str:
    """A lab's name that no other test run on this machine has."""
    return f"{purpose}-{os.getpid()}"


@asynccontextmanager
async def tidy_lab(spec: LabSpec) -> AsyncIterator[Lab]:
    """The lab of `spec`; after it, whatever is still on the machine fails the test."""
    async with Lab.start(spec) as lab:
        yield lab
    assert lab.leftovers() == []
