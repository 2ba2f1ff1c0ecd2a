"""The disks of a host's VMs, by definition: which datastore, which file, and whether they are whole.

Blocking; meant for a thread. Not done here: moves, which bring and take disks with the datastores' own methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kvmove.disk import qcow2
from kvmove.disk.datastore import Datastore
from kvmove.errors import Busy, CheckFailed, KvmoveError, NotFound
from kvmove.model.image import BackingImage, DiskImage
from kvmove.model.vm import SECTOR, DiskDefinition, DiskFormat, VmDefinition


class VmDisks:
    """Disks in `datastores`, which go by the names that definitions use. Methods raise as the datastores do."""

    def __init__(self, datastores: Mapping[str, Datastore]) -> None:
        self._datastores = datastores

    def files(self, definition: VmDefinition, *, incoming: bool) -> dict[str, Path]:
        """The file of every disk, by the disk's name.

        :raise NotFound: a disk, or its datastore, is not there.
        :raise CheckFailed: not `incoming`, and a disk is what an unfinished move has brought.
        """
        files = {}
        for disk in definition.disks:
            store = self._datastore(disk.datastore)
            path = store.disk_path(definition.uuid, disk)
            if not (path.is_block_device() if store.is_of_devices else path.is_file()):
                raise NotFound(f"Disk {disk.name} of VM {definition.name} is not there: {path}")
            if not incoming and (move := store.incoming_move(definition.uuid, disk.name)) is not None:
                raise CheckFailed(
                    f"Disk {disk.name} of VM {definition.name} is what move {move} has brought, which has not ended",
                    hint="Wait until that move has ended: kvmove task list",
                )
            files[disk.name] = path
        return files

    def devices(self, definition: VmDefinition) -> frozenset[str]:
        """The names of the disks that lie on block devices.

        :raise NotFound: a datastore is not there.
        """
        return frozenset(it.name for it in definition.disks if self._datastore(it.datastore).is_of_devices)

    def images(self, definition: VmDefinition) -> list[DiskImage]:
        """What there is to know of each disk's image before it moves. A QEMU may have them open."""
        return [self._image(definition, disk) for disk in definition.disks]

    def _image(self, definition: VmDefinition, disk: DiskDefinition) -> DiskImage:
        store = self._datastore(disk.datastore)
        try:
            path = store.disk_path(definition.uuid, disk)
            plain = DiskImage(name=disk.name, allocated=disk.size if store.is_of_devices else _allocated(path))
            return plain if disk.format is DiskFormat.RAW else _described(plain, path)
        except (KvmoveError, OSError) as error:
            return DiskImage(name=disk.name, problem=str(error))

    def require_none(self, definition: VmDefinition) -> None:
        """:raise Busy: disks of the VM lie there already; they are not ours to use, nor to undo."""
        for name in _datastores(definition):
            if definition.uuid in self._datastore(name).vms():
                raise Busy(f"Datastore {name} has disks of VM {definition.uuid} already", hint="Remove them first.")

    def make(self, definition: VmDefinition) -> None:
        """New, empty disks. After an error there is none that was made here; what was there before is left alone."""
        made: list[Datastore] = []
        try:
            self._make(definition, made)
        except BaseException:
            for store in made:
                store.delete_vm(definition.uuid)
            raise

    def _make(self, definition: VmDefinition, made: list[Datastore]) -> None:
        for disk in definition.disks:
            store = self._datastore(disk.datastore)
            store.create_disk(definition.uuid, disk)
            if store not in made:
                made.append(store)
            if store.is_of_devices:  # what another VM left there is not for this one to read
                with store.open_target(definition.uuid, disk) as target:
                    target.write_zeroes(0, target.size)
                    target.sync()

    def delete(self, definition: VmDefinition) -> None:
        """All that the VM has in the datastores of its definition, beyond recovery."""
        for name in _datastores(definition):
            self._datastore(name).delete_vm(definition.uuid)

    def _datastore(self, name: str) -> Datastore:
        try:
            return self._datastores[name]
        except KeyError:
            known = ", ".join(sorted(self._datastores)) or "none"
            raise NotFound(f"This host has no datastore {name}; it has {known}") from None


def _allocated(path: Path) -> int:
    """XFS holds space ready beyond the end of a file that grows; that is not the image's, and is given back."""
    seen = path.stat()
    return min(seen.st_blocks * SECTOR, seen.st_size)


def _described(plain: DiskImage, path: Path) -> DiskImage:
    """What a qcow2 image tells of itself."""
    found = qcow2.describe(path, DiskFormat.QCOW2)
    backing = tuple(
        BackingImage(path=str(layer.path), format=layer.format, size=layer.path.stat().st_size)
        for layer in found.backing
    )
    return plain.model_copy(
        update={
            "backing": backing,
            "snapshots": tuple(snapshot.name for snapshot in found.snapshots),
            "problem": f"{path} is marked as corrupt" if found.is_corrupt else "",
        }
    )


def _datastores(definition: VmDefinition) -> list[str]:
    return sorted({disk.datastore for disk in definition.disks})
