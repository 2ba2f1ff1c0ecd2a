"""What the manager has decided about hosts and VMs, on disk: maintenance, rules, hosts powered off, what was applied.

    <state>/placement.json

Invariant: the file is the old one or the new one, whole, and the new one once `change` has returned. It is small (the
history is cut), so it is written whole.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kvmove.errors import NeedsAttention
from kvmove.model.placement import Applied, HostMaintenance, Rule
from kvmove.model.strict import Strict
from kvmove.model.toml_file import explain

HISTORY = 500


class Kept(Strict):
    """`powered_off` has since when (RFC 3339), `moved` when balancing last moved a VM (its UUID; Unix time)."""

    maintenance: dict[str, HostMaintenance] = {}
    rules: tuple[Rule, ...] = ()
    powered_off: dict[str, str] = {}
    moved: dict[str, float] = {}
    history: tuple[Applied, ...] = ()


class PlacementStore:
    """The file in the folder `state`. Lives on one event loop.

    :raise NeedsAttention: it is damaged; a host under maintenance must not be taken for one that is not.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / "placement.json"
        self._writing = asyncio.Lock()
        self.kept = self._read()

    async def change(self, **fields: Any) -> None:
        """Change some of what is kept; it is durable when this returns."""
        self.kept = self.kept.model_copy(update=fields)
        async with self._writing:
            await asyncio.to_thread(self._write, self.kept.model_dump_json(indent=1))

    async def mark(self, host: str, mark: HostMaintenance | None) -> None:
        """The host is under maintenance so; None: it is not."""
        marks = {name: it for name, it in self.kept.maintenance.items() if name != host}
        await self.change(maintenance=marks | ({host: mark} if mark is not None else {}))

    async def remember(self, applied: Applied) -> None:
        """Add to the history, of which the newest stay."""
        await self.change(history=(*self.kept.history, applied)[-HISTORY:])

    def _read(self) -> Kept:
        if not self._path.exists():
            return Kept()
        try:
            return Kept.model_validate_json(self._path.read_bytes())
        except ValidationError as error:
            raise NeedsAttention(
                f"{self._path} is damaged: {explain(error)}",
                hint="restore it from a backup, or remove it: maintenance of hosts and all rules are then forgotten",
            ) from error

    def _write(self, text: str) -> None:
        draft = self._path.with_suffix(".new")
        with draft.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
