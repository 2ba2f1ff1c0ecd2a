"""What lets the next agent of a source go on with a copy of disks: a checkpoint, and QEMU's record of writes since.

    begin       QEMU records; then the mirrors may come                              undo: end
    keep        from the copy's beginning on a checkpoint a second
    turn        a new generation records, what was recorded stays
    take_up     after a gap, mirrors on again: what was written without them is named; a new generation records
    end         the checkpoint goes, then the records: before anything else is undone, and before memory is sent

Why no write is missed: the record begins before the first region is read, and a region of the checkpoint was at the
destination, with nothing of it on its way, when the checkpoint was taken. A write that the mirror brought before is
there; any other is in the records of the checkpoint's generation or a later one. After a gap the mirrors are on
before the generation is turned, and the turn drains: a write that no mirror brought is in what is read then. What a
checkpoint calls its generation changes only once all that was read is known to the mover.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from kvmove.migration.checkpoint import Checkpoint, CheckpointFile
from kvmove.migration.disk_images import exports_socket, quietly
from kvmove.migration.journal import MoveJournal, Step
from kvmove.model.move import MoveKind, MovePlan, Phase
from kvmove.model.vm import Power
from kvmove.mover.disk_move import REGION_SIZE
from kvmove.nbd.dirty_ranges import dirty_ranges
from kvmove.qemu.instance import Instance
from kvmove.qemu.write_records import WriteRecords, bitmap_name, export_name

log = logging.getLogger(__name__)

KEEP_SECONDS = 1.0
FIRST = 1


def resumable(journal: MoveJournal) -> Checkpoint | None:
    """The checkpoint from which the move may go on; None if it may not."""
    reached = str(journal.steps.get(Step.REACHED, {}).get("phase", ""))
    if not journal.has(Step.BEGAN) or journal.has(Step.YIELDED) or reached != Phase.COPYING_DISKS:
        return None
    plan = journal.plan()
    if plan.kind is not MoveKind.UNIFIED or plan.power is Power.OFF or plan.over_storage:
        return None
    checkpoint = CheckpointFile(journal.path).read()
    if checkpoint is None or checkpoint.region_size != REGION_SIZE or len(checkpoint.regions) != len(plan.disks):
        return None
    return checkpoint


class CopyRecord:
    """Of one move; `journal` is its journal's path, `run` the folder of its sockets."""

    def __init__(self, plan: MovePlan, instance: Instance, journal: Path, run: Path) -> None:
        self.generation = FIRST
        self._disks = [disk.name for disk in plan.disks]
        self._records = WriteRecords(instance.monitor, {name: instance.disk_nodes[name] for name in self._disks})
        self._file = CheckpointFile(journal)
        self._socket = exports_socket(run, plan)
        self._keeping: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    async def begin(self) -> None:
        """:raise KvmoveError: QEMU refused, or does not answer."""
        self._file.remove()
        await self._records.remove()
        await self._records.begin(self.generation)

    def keep(self, look: Callable[[], Checkpoint]) -> None:
        """Write what `look` gives, again and again; it is called in a thread."""
        self._keeping = asyncio.create_task(self._keep(look), name="copy-record")

    async def _keep(self, look: Callable[[], Checkpoint]) -> None:
        oldest = 0
        while not self._ending.is_set():
            checkpoint = await asyncio.to_thread(look)
            written = await asyncio.to_thread(self._file.write, checkpoint)
            if written and checkpoint.generation != oldest:  # what is older than its generation is in it
                await quietly(self._records.remove, checkpoint.generation)
                oldest = checkpoint.generation
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KEEP_SECONDS):
                    await self._ending.wait()

    async def turn(self) -> int:
        """A new generation records from now on; which. Checkpoints name the one they named.

        :raise KvmoveError: QEMU refused, or does not answer.
        """
        last = (await self._records.generations())[-1]
        await self._records.turn(last, last + 1)
        return last + 1

    async def take_up(self, since: int, changed: Callable[[int, tuple[int, int]], None]) -> int:
        """Tell `changed` (disk, (offset, length)) what the guest wrote, from generation `since` on, up to the turn made
        here; how many bytes that is, in QEMU's blocks.

        :raise KvmoveError: it cannot be told: the copy cannot go on.
        """
        new = await self.turn()
        size = 0
        for generation in (it for it in await self._records.generations() if since <= it < new):
            for disk, offset, length in await self._read(generation):
                changed(disk, (offset, length))
                size += length
        self.generation = new
        return size

    async def has(self, generation: int) -> bool:
        """Whether QEMU has recorded since that generation."""
        return generation in await self._records.generations()

    async def _read(self, generation: int) -> list[tuple[int, int, int]]:
        found = []
        try:
            await self._records.serve(generation, self._socket)
            for number, disk in enumerate(self._disks):
                name = bitmap_name(generation)
                ranges = await asyncio.to_thread(dirty_ranges, self._socket, export_name(disk), name)
                found += [(number, offset, length) for offset, length in ranges]
        finally:
            await self._records.serve_no_more()
        return found

    async def end(self) -> None:
        """May be done again.

        :raise KvmoveError: QEMU does not let a record go.
        """
        await self.keep_no_more()
        self._file.remove()
        await quietly(self._records.serve_no_more)
        await self._records.remove()

    async def keep_no_more(self) -> None:
        """What was written last is left to the next agent. No file is written any more when this returns."""
        self._ending.set()
        if self._keeping is not None:
            await asyncio.gather(self._keeping, return_exceptions=True)
