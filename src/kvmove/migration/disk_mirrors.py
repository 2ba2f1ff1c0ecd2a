"""The disks of a move at its source, mirrored from QEMU into the mover.

    start     every disk has its mirror, and QEMU was drained once; the bulk copy may begin      undo: mirrors off

Undos and releases go on the stacks that the procedure gives, each beside its step. Deliberately not here: the copy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack

from kvmove.disk.interface import SourceDisk
from kvmove.migration.disk_images import quietly
from kvmove.migration.host_parts import HostParts
from kvmove.model.move import MovePlan
from kvmove.mover.disk_move import DiskMove
from kvmove.mover.move_terms import MovingDisk
from kvmove.nbd.server import NbdServer
from kvmove.qemu.block_jobs import MirrorJob, MirrorSpec, drain
from kvmove.qemu.instance import Instance

log = logging.getLogger(__name__)


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
        self._host = host
        self._plan = plan
        self._instance = instance
        self._disks = disks

    async def start(self, undo: AsyncExitStack, release: AsyncExitStack) -> None:
        """:raise KvmoveError: a mirror did not start; those that did are on the stack of undos."""
        for number in range(len(self._plan.disks)):
            await self._start(number, undo, release)
        await drain(self._instance.monitor)

    async def _start(self, number: int, undo: AsyncExitStack, release: AsyncExitStack) -> None:
        disk = self._plan.disks[number]
        handler = self._disks.mirror(number)
        path = self._host.run / f"{self._plan.move_id}-{number}.sock"
        server = NbdServer(path, disk.name, disk.size, handler)
        handler.server = server
        server.start()
        release.push_async_callback(asyncio.to_thread, server.close)
        spec = MirrorSpec(self._instance.disk_nodes[disk.name], disk.size, path, disk.name, number)
        job = MirrorJob(self._instance.monitor, self._instance.oob, spec)
        undo.push_async_callback(self._abandon, job, server)
        self.jobs.append(job)
        await job.start()

    async def _abandon(self, job: MirrorJob, server: NbdServer) -> None:
        """Undo of a mirror; never forced (it would kill the VM)."""
        self._disks.expect_mirrors_to_end()
        await quietly(job.abandon, lambda: server.abort("the move was given up"))
