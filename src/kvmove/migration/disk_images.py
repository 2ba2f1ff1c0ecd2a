"""The images of a move's disks, open: to be read where the VM is, and to be written by whoever writes them.

    format   read                                                    written
    raw      the file or device itself                               ourselves
    qcow2    by the VM's own QEMU (an export); if the VM is off,     by a storage daemon, until `seal`
             by a storage daemon

Invariant: after `seal` nobody of ours has a target open for writing, and what was written is durable: a QEMU may take
it over. Daemons and exports end with `close`, which may follow anything and be done twice.

Deliberately not here: making the images (datastore), and what is written into them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ParamSpec
from uuid import uuid4

from kvmove.disk.datastore import Datastore
from kvmove.disk.digest import content_digest
from kvmove.disk.interface import SourceDisk, TargetDisk
from kvmove.disk.nbd_disk import NbdSource, NbdTarget
from kvmove.disk.raw_file import RawFile
from kvmove.errors import CheckFailed, KvmoveError
from kvmove.migration.host_parts import HostParts
from kvmove.model.move import DiskPlacement, MovePlan
from kvmove.model.vm import DiskDefinition, DiskFormat, Provisioning
from kvmove.qemu.disk_export import DiskExports
from kvmove.qemu.instance import Instance
from kvmove.qemu.storage_daemon import StorageDaemon

log = logging.getLogger(__name__)

P = ParamSpec("P")


def exports_socket(run: Path, plan: MovePlan) -> Path:
    """Where a VM's QEMU shows its disks to a move."""
    return run / f"{plan.move_id}-read.sock"


class SourceImages:
    """The disks that move, read while the VM runs in `instance`, or while it is off (None). `disks` are in the plan's
    order."""

    def __init__(self, host: HostParts, plan: MovePlan, instance: Instance | None) -> None:
        self.disks: list[SourceDisk] = []
        self._host = host
        self._plan = plan
        self._instance = instance
        self._exports: DiskExports | None = None
        self._daemons: list[StorageDaemon] = []

    async def open(self) -> None:
        """:raise KvmoveError: one cannot be opened; `close` what is open."""
        exported = [it.name for it in self._plan.disks if it.source_format is not DiskFormat.RAW]
        if self._instance is not None and exported:
            self._exports = DiskExports(self._instance.monitor, exports_socket(self._host.run, self._plan))
            await self._exports.start({name: self._instance.disk_nodes[name] for name in exported})
        for placement in self._plan.disks:
            self.disks.append(await self._open(placement))
            _require_size(self.disks[-1], placement)

    async def _open(self, placement: DiskPlacement) -> SourceDisk:
        vm, disk = self._plan.vm.uuid, self._plan.old_disk(placement)
        store = self._host.datastores[disk.datastore]
        if disk.format is DiskFormat.RAW:
            return store.open_source(vm, disk, direct=disk.cache == "none")
        path = await asyncio.to_thread(store.disk_path, vm, disk)
        if self._exports is not None:
            socket = self._exports.socket
        else:
            socket = self._socket(f"read-{disk.name}")
            self._daemons.append(await StorageDaemon.start(disk, path, socket, writable=False))
        return await asyncio.to_thread(lambda: NbdSource(path, socket, disk.name, top_only=bool(placement.backing)))

    def _socket(self, what: str) -> Path:
        return self._host.run / f"{self._plan.move_id}-{what}.sock"

    async def close(self) -> None:
        """Nothing is read any more: let go of all. A QEMU that does not answer keeps its exports, which harm nobody."""
        for disk in self.disks:
            await asyncio.to_thread(disk.close)
        if self._exports is not None:
            await quietly(self._exports.end)
        for daemon in self._daemons:
            await quietly(daemon.end)


class TargetImages:
    """The disks that a move brings, written by this host. `store_of` gives the datastore as this host has it."""

    def __init__(self, host: HostParts, plan: MovePlan, store_of: Callable[[DiskPlacement], Datastore]) -> None:
        self.disks: list[TargetDisk] = []
        self._host = host
        self._plan = plan
        self._store_of = store_of
        self._daemons: list[StorageDaemon] = []

    async def open(self) -> None:
        """The images are there.

        :raise KvmoveError: one cannot be opened; `close` what is open.
        """
        for placement in self._plan.disks:
            self.disks.append(await self._open(placement))

    async def _open(self, placement: DiskPlacement) -> TargetDisk:
        vm, disk = self._plan.vm.uuid, self._plan.new_disk(placement)
        store = self._store_of(placement)
        if disk.format is DiskFormat.RAW:
            return store.open_target(vm, disk)
        path = await asyncio.to_thread(store.disk_path, vm, disk)
        socket = self._host.run / f"{self._plan.move_id}-write-{disk.name}.sock"
        self._daemons.append(await StorageDaemon.start(disk, path, socket, writable=True))
        thick = disk.provisioning is Provisioning.THICK
        return await asyncio.to_thread(lambda: NbdTarget(path, socket, disk.name, thick=thick))

    async def seal(self) -> None:
        """All that was written is on stable storage, and nobody here writes any more. May be done again.

        :raise KvmoveError: it is not: throw the images away.
        """
        await asyncio.gather(*(asyncio.to_thread(_sync, disk) for disk in self.disks))
        if self._daemons:
            await self._let_go()
            await asyncio.gather(*(daemon.end() for daemon in self._daemons))

    async def _let_go(self) -> None:
        for disk in self.disks:
            await asyncio.to_thread(disk.close)

    async def give_up(self) -> None:
        """Let go of all before what was written is thrown away. What is dirty in this host's page cache goes to the
        storage now, and not later over what somebody else has written to the same device."""
        for disk in self.disks:
            with contextlib.suppress(KvmoveError):
                await asyncio.to_thread(disk.sync)
        await self.close()

    async def close(self) -> None:
        """Let go of all, sealed or not."""
        await self._let_go()
        for daemon in self._daemons:
            await quietly(daemon.end)


def _require_size(disk: SourceDisk, placement: DiskPlacement) -> None:
    """The new image is made as the VM's definition says: of a larger disk it would hold a part.

    :raise CheckFailed: somebody has resized the disk.
    """
    if disk.size != placement.size:
        raise CheckFailed(
            f"disk {placement.name} has {disk.size} bytes, and {placement.size} in the VM's definition: its image"
            f" {disk.path} was resized",
            hint="Give the image the size of the definition again (qemu-img resize), then move.",
        )


def _sync(disk: TargetDisk) -> None:
    disk.sync()
    disk.sync_folder()


async def image_digest(run: Path, disk: DiskDefinition, image: Path) -> str:
    """The digest of what a guest would read from `image`, which nobody writes to; `run` is for a socket.

    :raise KvmoveError: it cannot be read.
    """
    if disk.format is DiskFormat.RAW:
        return await asyncio.to_thread(_raw_digest, disk, image)
    socket = run / f"digest-{uuid4().hex}.sock"  # two moves may read images of one name at a time
    daemon = await StorageDaemon.start(disk, image, socket, writable=False)
    try:
        with NbdSource(image, daemon.socket, disk.name) as source:
            return await asyncio.to_thread(content_digest, source)
    finally:
        await quietly(daemon.end)


def _raw_digest(disk: DiskDefinition, image: Path) -> str:
    with RawFile(image, device_size=disk.size if image.is_block_device() else None) as source:
        return content_digest(source)


async def quietly(undo: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> None:
    """An undo must not keep the others from running: what it raises is logged."""
    try:
        await undo(*args, **kwargs)
    except KvmoveError as error:
        log.warning("an undo failed: %s", error.detail)
