"""The disks of a move at its source, mirrored from QEMU into the mover.

    start     every disk has its mirror, and QEMU was drained once; the bulk copy may begin      undo: mirrors off
    block     the mirrors are write-blocking from now on: the guest cannot outrun them

While most of a disk is yet to be copied a background mirror serves a guest better: none of its writes waits, and the
mirror has what is left of the time. Before memory is sent the mirrors are made write-blocking, or earlier if the guest
writes faster than the destination takes it. A mirror that has ended and one that has begun leave a gap between them,
which QEMU's record of writes covers (copy_record).

Undos and releases go on the stacks that the procedure gives, each beside its step. Deliberately not here: the copy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from kvmove.disk.interface import SourceDisk
from kvmove.errors import KvmoveError
from kvmove.failpoints import reach
from kvmove.migration.copy_record import CopyRecord
from kvmove.migration.disk_images import quietly
from kvmove.migration.host_parts import HostParts
from kvmove.model.move import MovePlan
from kvmove.mover.disk_move import DiskMove
from kvmove.mover.move_terms import MovingDisk
from kvmove.nbd.server import NbdServer
from kvmove.qemu.block_jobs import CopyMode, MirrorJob, MirrorSpec, drain
from kvmove.qemu.instance import Instance

log = logging.getLogger(__name__)

FINISH_SECONDS = 2.0
"""A background mirror that has not caught up with its guest by then does not; what it owes is read from the record."""


def moving_disks(plan: MovePlan, sources: Sequence[SourceDisk]) -> list[MovingDisk]:
    """The disks of `plan`, read from `sources`: one that is copied keeps both its datastores busy."""
    return [
        MovingDisk(
            source,
            frozenset({f"source:{disk.source_datastore}", f"destination:{disk.destination_datastore}"}),
            blank=not disk.on_device,
        )
        for disk, source in zip(plan.disks, sources, strict=True)
    ]


class DiskMirrors:
    """The mirrors of one move into `disks`. `jobs` are in the order of the plan's disks."""

    def __init__(self, host: HostParts, plan: MovePlan, instance: Instance, disks: DiskMove) -> None:
        self.jobs: list[MirrorJob] = []
        self._servers: list[NbdServer] = []
        self._host = host
        self._plan = plan
        self._instance = instance
        self._disks = disks

    async def start(self, mode: CopyMode, undo: AsyncExitStack, release: AsyncExitStack) -> None:
        """:raise KvmoveError: a mirror did not start; those that did are on the stack of undos."""
        self._disks.guest_waits = mode is CopyMode.WRITE_BLOCKING
        release.push_async_callback(self._close)
        undo.push_async_callback(self._abandon)
        for number in range(len(self._plan.disks)):
            await self._begin(number, mode)
        await drain(self._instance.monitor)

    async def block(self, record: CopyRecord) -> int:
        """Make the mirrors write-blocking; `record` has recorded since before they began. Returns how many bytes are
        copied again, for what the guest wrote meanwhile.

        :raise KvmoveError: not every write is mirrored, or known to have to be copied: the move cannot go on.
        """
        since = await record.turn()
        self._disks.expect_mirrors_to_end(expected=True)
        if not await self._finish():
            since = record.generation
        await self._close()
        await reach("source-between-mirrors")
        self._disks.expect_mirrors_to_end(expected=False)
        self._disks.guest_waits = True
        for number in range(len(self._plan.disks)):
            self._disks.mirror_gone(number)
            await self._begin(number, CopyMode.WRITE_BLOCKING)
        await drain(self._instance.monitor)
        return await record.take_up(since, self._disks.discarded)

    async def _begin(self, number: int, mode: CopyMode) -> None:
        disk = self._plan.disks[number]
        handler = self._disks.mirror(number)
        path = self._host.run / f"{self._plan.move_id}-{number}.sock"
        server = NbdServer(path, disk.name, disk.size, handler)
        handler.server = server
        server.start()
        spec = MirrorSpec(self._instance.disk_nodes[disk.name], disk.size, path, disk.name, number, mode)
        job = MirrorJob(self._instance.monitor, self._instance.oob, spec)
        self._servers[number:] = [server, *self._servers[number + 1 :]]
        self.jobs[number:] = [job, *self.jobs[number + 1 :]]
        await job.start()

    async def _finish(self) -> bool:
        """End the mirrors; whether all that the guest had written by then was mirrored."""
        ends = await asyncio.gather(*(job.finish(timeout=FINISH_SECONDS) for job in self.jobs), return_exceptions=True)
        for job, server, end in zip(self.jobs, self._servers, ends, strict=True):
            if isinstance(end, KvmoveError):
                log.info("move %s: a mirror is ended as it is: %s", self._plan.move_id, end.detail)
                await job.abandon(_hang_up(server, "the mirror fell behind"))
            elif end is not None:
                raise end
        return not any(ends)

    async def _close(self) -> None:
        for server in self._servers:
            await asyncio.to_thread(server.close)

    async def _abandon(self) -> None:
        """Undo of the mirrors; never forced (it would kill the VM)."""
        self._disks.expect_mirrors_to_end(expected=True)
        for job, server in reversed(list(zip(self.jobs, self._servers, strict=True))):
            await quietly(job.abandon, _hang_up(server, "the move was given up"))


def _hang_up(server: NbdServer, reason: str) -> Callable[[], None]:
    return lambda: server.abort(reason)
