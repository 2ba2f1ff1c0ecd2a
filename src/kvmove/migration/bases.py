"""The images below the disks of a move: found at the source, and brought cold, file by file, before the disks.

Nobody writes to them, so they need no mirror. What the destination's datastore has already, by its digest, is not
copied again. A disk that becomes one image has none.

    find        at the source: digests, lowest first
    make        at the destination: partial files for those that its datastores lack       undo: discard
    copy        by the mover, as disks that nobody writes to
    commit      each rests on the one below it, under its own name; disks may be made on it

Invariant: an image counts as there only once it is whole and durable (disk/base_images).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from kvmove.disk.base_images import known_digest
from kvmove.disk.datastore import Datastore
from kvmove.disk.raw_file import RawFile
from kvmove.disk.raw_target import RawTarget
from kvmove.errors import MoveFailed
from kvmove.migration.disk_images import image_digest
from kvmove.migration.host_parts import HostParts
from kvmove.migration.move_board import MoveBoard
from kvmove.model.image import BackingImage, BaseImage
from kvmove.model.move import DiskPlacement, MovePlan
from kvmove.model.vm import DiskDefinition, DiskFormat
from kvmove.mover.disk_move import DiskMove
from kvmove.mover.move_terms import MovingDisk
from kvmove.units import format_size

START_SECONDS = 10.0
LOOK_SECONDS = 0.5

NO_BASES: Mapping[str, Sequence[BaseImage]] = {}


class Bring(NamedTuple):
    """An image that has to be brought for the disk `placement`, onto `below`."""

    placement: DiskPlacement
    base: BaseImage
    below: BaseImage | None

    @property
    def key(self) -> str:
        """What is the same image: two disks may rest on one. Datastores and formats keep their own."""
        return f"{self.placement.destination_datastore}/{self.base.digest}.{self.base.format}"


class SourceBases:
    """Those of one move at its source. `bases` are by the disk's name, lowest first."""

    def __init__(self, host: HostParts, plan: MovePlan) -> None:
        self.bases: dict[str, tuple[BaseImage, ...]] = {}
        self._host = host
        self._plan = plan
        self._files: dict[tuple[str, DiskFormat], Path] = {}

    async def find(self) -> None:
        """:raise KvmoveError: one cannot be read."""
        for placement in self._plan.disks:
            found: list[BaseImage] = []
            for backing in reversed(placement.backing):
                base = await self._look(placement, backing)
                if not found or found[-1].digest != base.digest:  # else it adds nothing to the one below
                    found.append(base)
            if found:
                self.bases[placement.name] = tuple(found)

    async def _look(self, placement: DiskPlacement, backing: BackingImage) -> BaseImage:
        path = Path(backing.path)
        digest = known_digest(path)
        if not digest:
            size = placement.size  # of a guest's disk; that of an image may be another, and is read from the image
            disk = DiskDefinition(
                name=placement.name, datastore=placement.source_datastore, size=size, format=backing.format
            )
            digest = await image_digest(self._host.run, disk, path)
        base = BaseImage(digest=digest, format=backing.format, size=backing.size)
        self._files.setdefault((digest, backing.format), path)
        return base

    def open(self, brought: Sequence[Bring], release: ExitStack) -> list[MovingDisk]:
        """The files of those images, to be read."""
        return [
            MovingDisk(
                release.enter_context(RawFile(self._files[it.base.digest, it.base.format])),
                frozenset(
                    {f"source:{it.placement.source_datastore}", f"destination:{it.placement.destination_datastore}"}
                ),
            )
            for it in brought
        ]


class NewBases:
    """Those of one move where they are made; `store_of` gives the destination's datastore as this host has it."""

    def __init__(
        self,
        plan: MovePlan,
        bases: Mapping[str, Sequence[BaseImage]],
        store_of: Callable[[DiskPlacement], Datastore],
    ) -> None:
        self._plan = plan
        self._bases = bases
        self._store_of = store_of

    def all(self) -> list[Bring]:
        """Every image, once for each datastore, lower ones first."""
        found: dict[str, Bring] = {}
        for placement in self._plan.disks:
            below = None
            for base in self._bases.get(placement.name, ()):
                bring = Bring(placement, base, below)
                found.setdefault(bring.key, bring)
                below = base
        return list(found.values())

    def missing(self) -> list[Bring]:
        """Those that the datastores lack. Blocking. :raise KvmoveError: a datastore cannot be looked at."""
        return [it for it in self.all() if not self._store_of(it.placement).has_base(it.base)]

    async def make(self, wanted: Sequence[Bring]) -> None:
        """Partial files. :raise KvmoveError: one cannot be made; `discard`."""
        for it in wanted:
            await asyncio.to_thread(self._store_of(it.placement).begin_base, it.base, self._plan.move_id)

    def open(self, wanted: Sequence[Bring], release: ExitStack) -> list[RawTarget]:
        """The files, to be written."""
        return [
            release.enter_context(self._store_of(it.placement).open_base(it.base, self._plan.move_id)) for it in wanted
        ]

    async def commit(self) -> None:
        """All were brought and synced. :raise KvmoveError: what came is no image."""
        for it in self.all():
            await asyncio.to_thread(self._store_of(it.placement).commit_base, it.base, it.below, self._plan.move_id)

    def under(self, placement: DiskPlacement) -> BaseImage | None:
        """What the disk's own image rests on."""
        return next(iter(reversed(self._bases.get(placement.name, ()))), None)


async def copy_cold(move: DiskMove, board: MoveBoard) -> None:
    """Run a move of disks that nobody writes to, to its end: all is applied, and synced where it is this host's.

    :raise KvmoveError: it failed. Its threads have ended in any case.
    """
    if not move.disks:
        return
    try:
        await asyncio.to_thread(move.start, START_SECONDS)
        move.start_copy()
        while not await asyncio.to_thread(move.wait_copied, LOOK_SECONDS):
            disks, _ = move.snapshot()
            copied, total = sum(disk.copied for disk in disks), sum(disk.total for disk in disks)
            board.message = f"copying what the disks rest on: {format_size(copied)} of {format_size(total)}"
        if not await asyncio.to_thread(move.wait_settled, START_SECONDS):
            raise MoveFailed("What the disks rest on could not be delivered.")
        await asyncio.to_thread(move.sync_targets)
    finally:
        board.message = ""
        await asyncio.to_thread(move.stop)
