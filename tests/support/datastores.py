"""A datastore in a folder of its own, and names for what lies in it."""

from pathlib import Path
from uuid import UUID

from kvmove.disk.claims import LOCK
from kvmove.disk.datastore import IDENTITY
from kvmove.model.vm import DiskDefinition

VM = UUID("11111111-2222-3333-4444-555555555555")
OTHER = UUID("11111111-2222-3333-4444-666666666666")
MIB = 1024 * 1024


def disk(name: str, size: int = MIB) -> DiskDefinition:
    """Any name: nothing has checked it before."""
    return DiskDefinition(name="x", datastore="local", size=size).model_copy(update={"name": name})


ROOT = disk("root")
DISKS = ("root", "data", "small")


def tree(path: Path) -> list[str]:
    """All that lies there, but for what every datastore has."""
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*") if entry.name not in (IDENTITY, LOCK))
