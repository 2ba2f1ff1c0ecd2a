"""A datastore: a directory with an identity file, in which the VMs' disks lie.

    .kvmove-datastore                       identity, {"id": uuid, "version": 1}
    <uuid>/<disk>.<format>                  the disks of a VM, `.raw` or `.qcow2`
    <uuid>/<disk>.device                    a disk that lies on a block device, see `claims`
    <uuid>/.incoming-<move id>              the folder is partial, see `incoming`
    .kvmove-quarantine/<uuid>.<move id>/    what a finished move left behind, see `quarantine`
    .kvmove-images/                         what disks rest on, see `base_images`
    .kvmove-swap/                           where QEMUs make their swap files, which have no names

Invariant: every path is made here from a UUID and a checked name, never from a user's text, and below the datastore's
own path no link is followed. Each call looks at the identity anew, so that nothing is ever written under a mount point
whose file system is gone, or into another that was mounted there.

Blocking calls; meant for a thread. Knows nothing of ownership: who may call what is decided above.
"""

import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from uuid import UUID, uuid4

from kvmove.disk import base_images, claims, incoming, qcow2, quarantine, reservation
from kvmove.disk.claims import Claim, Devices
from kvmove.disk.errors import DiskError, disk_error
from kvmove.disk.folder import Folder
from kvmove.disk.qcow2 import Layer
from kvmove.disk.quarantine import Leaving, Quarantined
from kvmove.disk.raw_file import RawFile
from kvmove.disk.raw_target import RawTarget
from kvmove.errors import Busy, CheckFailed, InvalidInput, KvmoveError, NotFound
from kvmove.model.host import DatastoreInfo
from kvmove.model.image import BaseImage
from kvmove.model.names import NAME_PATTERN
from kvmove.model.vm import DiskDefinition, DiskFormat, Provisioning

IDENTITY = ".kvmove-datastore"
SWAP = ".kvmove-swap"
VERSION = 1

_NAME = re.compile(NAME_PATTERN)


class Datastore:
    """An open datastore; make it with `create` or `open`. Holds nothing open between calls.

    With `devices`, globs of the administrator's, its disks lie on block devices that these match, and on no others.

    Every method may raise NotFound (the datastore or what is asked for is not there any more) and DiskError (the
    storage failed, or a link lies where a folder or a disk should).
    """

    def __init__(self, name: str, path: Path, identity: UUID, devices: Sequence[str] = ()) -> None:
        self.name = name
        self.path = path
        self.id = identity
        self._devices = Devices(devices) if devices else None
        self._deleting = threading.Lock()  # a purge would take what is just being deleted for a leftover

    # The datastore itself

    @classmethod
    def create(cls, name: str, path: Path) -> "Datastore":
        """Make the existing directory `path` a datastore with an identity of its own.

        :raise Busy: it is one already.
        """
        store = cls(_checked(name, "datastore"), path, uuid4())
        with store._guard("make it a datastore"), Folder.at(path) as root:
            if root.has(IDENTITY):
                raise Busy(f"{path} is a datastore already", hint="Use it as it is.")
            content = {"id": str(store.id), "version": VERSION}
            root.write_new(IDENTITY, json.dumps(content).encode())
        return store

    @classmethod
    def open(cls, name: str, path: Path, devices: Sequence[str] = ()) -> "Datastore":
        """The datastore at `path`, which this host calls `name`.

        :raise NotFound: no identity file: never made a datastore, or its file system is not mounted.
        :raise InvalidInput: the identity file is damaged or of a later version.
        """
        store = cls(_checked(name, "datastore"), path, UUID(int=0), devices)
        with store._guard("open it"), Folder.at(path) as root:
            store.id = store._identity(root)
        return store

    def info(self) -> DatastoreInfo:
        """Identity, size and free space (bytes) now; of devices the sums."""
        with self._root("look at it") as root:
            size, free = root.space()
            sizes = None
            if self._devices is not None:
                sizes = tuple(sorted(device.size for device in self._devices.free(root).values()))
                free = sum(sizes)
                size = free + self._devices.claimed_size(root)
        return DatastoreInfo(name=self.name, id=self.id, path=str(self.path), size=size, free=free, devices=sizes)

    @property
    def is_of_devices(self) -> bool:
        """Whether its disks lie on block devices."""
        return self._devices is not None

    def vms(self) -> list[UUID]:
        """The VMs that have a folder here, partial ones included."""
        with self._root("list its VMs") as root:
            return [vm for vm in map(_uuid, root.names()) if vm is not None]

    def swap_folder(self) -> Path:
        """Where QEMU makes the swap files of VMs. Made when it is not there; another host may be at the same.

        :raise CheckFailed: this is a datastore of block devices.
        """
        if self.is_of_devices:
            raise CheckFailed(
                f"datastore {self.name} has block devices for disks, and no place for swap files",
                hint="Name another datastore in the VM's swap, host:DATASTORE.",
            )
        with self._root("make a folder for swap files") as root:
            with suppress(FileExistsError):
                root.make_folder(SWAP).close()
            root.folder(SWAP).close()  # a link is refused
        return self.path / SWAP

    # Disks

    def disk_path(self, vm: UUID, disk: DiskDefinition) -> Path:
        """Where this disk lies or will lie, for QEMU's command line. Of a disk that is to lie on a device and has none
        yet, where its claim will be.

        :raise NotFound: also when its device is not there, or not one that the configuration allows.
        """
        path = self._path_of(vm, disk)
        if self._devices is not None and path.exists():
            return self._claim(self._devices, vm, disk).device
        with self._root(f"find {vm}/{disk.name}") as root:
            if root.has(str(vm)):
                with root.folder(str(vm)) as folder:
                    if folder.has(path.name):
                        folder.require_file(path.name)
        return path

    def named_path(self, vm: UUID, disk: DiskDefinition) -> Path:
        """What `disk_path` gives, also while the datastore is not mounted, if it has no devices."""
        return self.disk_path(vm, disk) if self.is_of_devices else self._path_of(vm, disk)

    def create_disk(self, vm: UUID, disk: DiskDefinition, *, reserve: int = 0, below: BaseImage | None = None) -> Path:
        """A new disk, durable; the VM's folder is made when there is none. Return where it lies. It rests on the base
        image `below`, if given, which is there.

        It holds nothing, but on a device what that held before. `reserve` bytes of a thin disk must be free and are
        promised to it until its folder is whole. For a VM that moves in call `begin_incoming` before.

        :raise CheckFailed: too little is free, no device is, or such a disk cannot be here.
        """
        path = self._path_of(vm, disk)
        self._require_possible(disk)
        with self._root(f"make {vm}/{disk.name}") as root:
            is_new = not root.has(str(vm))
            with root.make_folder(str(vm)) if is_new else root.folder(str(vm)) as folder:
                try:
                    if self._devices is not None:
                        path = self._devices.claim(root, folder, disk.name, disk.size)
                    else:
                        _make_file(root, folder, path, disk, reserve, self.base_layer(below))
                except (KvmoveError, OSError):
                    if is_new:
                        root.remove_tree(str(vm))
                    raise
                folder.sync()
            root.sync()
        return path

    def open_source(self, vm: UUID, disk: DiskDefinition, *, direct: bool) -> RawFile:
        """The disk, to be read; `direct` past the page cache."""
        path = self._path_of(vm, disk)
        if self._devices is not None:
            claim = self._claim(self._devices, vm, disk)
            return RawFile(claim.device, direct=direct, device_size=claim.size)
        with self._root(f"open {vm}/{disk.name}") as root, root.folder(str(vm)) as folder:
            return RawFile(path, direct=direct, dir_fd=folder.fileno())

    def open_target(self, vm: UUID, disk: DiskDefinition) -> RawTarget:
        """The disk, to be written."""
        path = self._path_of(vm, disk)
        if self._devices is not None:
            claim = self._claim(self._devices, vm, disk)
            return RawTarget(claim.device, thick=True, device_size=claim.size)
        with self._root(f"open {vm}/{disk.name}") as root, root.folder(str(vm)) as folder:
            thick = disk.provisioning is Provisioning.THICK
            return RawTarget(path, thick=thick, dir_fd=folder.fileno())

    # Images below disks, see `base_images`

    def has_base(self, base: BaseImage) -> bool:
        """Whether the image is there, whole."""
        with self._root("look for an image") as root:
            return base_images.is_there(root, base)

    def begin_base(self, base: BaseImage, move_id: str) -> None:
        """Make the file that a move brings the image into.

        :raise CheckFailed: too little is free.
        """
        with self._root("make room for an image") as root:
            base_images.begin(root, self.path, base, _checked(move_id, "move"))

    def open_base(self, base: BaseImage, move_id: str) -> RawTarget:
        """That file, to be written."""
        with self._root("open an image") as root:
            return base_images.open_target(root, self.path, base, _checked(move_id, "move"))

    def commit_base(self, base: BaseImage, below: BaseImage | None, move_id: str) -> None:
        """The image was brought and synced; it rests on `below`. Repeating it changes nothing.

        :raise MoveFailed: it is no image of its format.
        """
        with self._root("take an image over") as root:
            base_images.commit(root, self.path, base, below, _checked(move_id, "move"))

    def discard_bases(self, move_id: str) -> None:
        """Delete what the move has begun to bring. Nothing happens when there is nothing."""
        with self._root("discard images") as root:
            base_images.discard(root, _checked(move_id, "move"))

    def base_layer(self, base: BaseImage | None) -> Layer | None:
        """The image as another rests on it."""
        return Layer(base_images.path_of(self.path, base), base.format) if base is not None else None

    def has_disk(self, vm: UUID, disk: str) -> bool:
        """Whether there is anything of this disk here, partial or whole."""
        with self._root(f"look for {vm}/{disk}") as root:
            return incoming.has_disk(root, vm, disk)

    def delete_vm(self, vm: UUID) -> None:
        """Delete the VM's disks here, beyond recovery. Nothing happens when there are none.

        :raise Busy: a move brings this VM here.
        """
        with self._deleting, self._root(f"delete {vm}") as root:
            if root.has(str(vm)):
                incoming.require(root, vm, None)
                quarantine.delete(root, vm)

    # A move in

    def begin_incoming(self, vm: UUID, move_id: str, disks: Iterable[str]) -> None:
        """Mark these disks of a VM as partial, before they are made. Repeating it changes nothing.

        :raise Busy: one of them is here, or another move brings disks of the VM.
        """
        with self._root(f"make room for {vm}") as root:
            names = [_checked(disk, "disk") for disk in disks]
            incoming.begin(root, vm, _checked(move_id, "move"), names)

    def incoming_move(self, vm: UUID, disk: str | None = None) -> str | None:
        """The move that brings the disk, or any of the VM's disks; None when it is whole, and the VM may be started."""
        with self._root(f"look at {vm}") as root:
            return incoming.move_of(root, vm) if disk is None else incoming.move_of_disk(root, vm, disk)

    def commit_incoming(self, vm: UUID, move_id: str) -> None:
        """The VM is handed over: what the move has brought is whole from now on, durably. Repeating it changes nothing.

        Sync the disks before; this makes only their entries durable.

        :raise Busy: the folder is partial for another move.
        """
        with self._root(f"take over {vm}") as root:
            incoming.commit(root, vm, _checked(move_id, "move"))

    def discard_incoming(self, vm: UUID, move_id: str) -> None:
        """Delete what this move has brought here, and nothing else. Nothing happens when there is nothing of it.

        :raise Busy: another move brings disks of the VM; they are left as they are.
        """
        with self._deleting, self._root(f"discard what move {move_id} brought") as root:
            if root.has(str(vm)) and not incoming.discard(root, vm, _checked(move_id, "move")):
                quarantine.delete(root, vm)

    def unfinished_moves(self) -> set[str]:
        """The moves that folders or images here are partial for; of any host that reaches the datastore."""
        with self._root("look for partial folders") as root:
            vms = [vm for vm in map(_uuid, root.names()) if vm is not None]
            found = {incoming.move_of(root, vm) for vm in vms}
            return {move for move in found if move is not None} | base_images.unfinished_moves(root)

    def discard_move(self, move_id: str) -> None:
        """Delete all that this move has brought here, of any VM. Nothing happens when there is nothing."""
        for vm in self.vms():
            with suppress(NotFound):  # its own host has just deleted it
                if self.incoming_move(vm) == move_id:
                    self.discard_incoming(vm, move_id)
        self.discard_bases(move_id)

    # A move out

    def quarantine(self, vm: UUID, move_id: str, leaving: Leaving) -> Path:
        """Put disks of a VM aside, which have moved away, durably: no VM can be started from there. Return where.

        Repeating it changes nothing. A QEMU that has the disks open keeps them.

        :raise Busy: a move brings disks of the VM here.
        """
        with self._root(f"put {vm} aside") as root:
            if root.has(str(vm)):
                incoming.require(root, vm, None)
            return self.path / quarantine.put_aside(root, vm, _checked(move_id, "move"), leaving, time.time())

    def quarantined(self) -> list[Quarantined]:
        """What is put aside."""
        with self._root("list what is put aside") as root:
            return quarantine.put_aside_all(root)

    def purge(self, older_than: float) -> list[str]:
        """Delete for ever what was put aside `older_than` seconds ago or earlier, and what was left of deletions.
        Return the folders' names."""
        with self._deleting, self._root("purge what is put aside") as root:
            return quarantine.purge(root, time.time() - older_than)

    # Inside

    def _path_of(self, vm: UUID, disk: DiskDefinition) -> Path:
        return (
            self.path
            / str(vm)
            / f"{_checked(disk.name, 'disk')}{claims.SUFFIX if self._devices else f'.{disk.format}'}"
        )

    def _claim(self, devices: Devices, vm: UUID, disk: DiskDefinition) -> Claim:
        with self._root(f"find the device of {vm}/{disk.name}") as root, root.folder(str(vm)) as folder:
            claim = devices.of(folder, disk.name)
        if claim.size != disk.size:
            raise DiskError(f"disk {disk.name} has {disk.size} bytes, its claim on {claim.device} is for {claim.size}")
        return claim

    def _require_possible(self, disk: DiskDefinition) -> None:
        if self.is_of_devices and (disk.format, disk.provisioning) != (DiskFormat.RAW, Provisioning.THICK):
            raise CheckFailed(
                f"disk {disk.name} cannot be {disk.provisioning} {disk.format} on datastore {self.name}: a disk on a"
                " block device has all its space, and the device's bytes are the disk's",
                hint='Ask for format "raw" and provisioning "thick", or choose another datastore.',
            )

    @contextmanager
    def _root(self, what: str) -> Iterator[Folder]:
        with self._guard(what), Folder.at(self.path) as root:
            found = self._identity(root)
            if found != self.id:
                raise NotFound(
                    f"{self.path} is now datastore {found}, not {self.id}",
                    hint=f"Mount the file system of datastore {self.name} there again.",
                )
            yield root

    @contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NotFound(f"datastore {self.name}: cannot {what}: {error.filename} does not exist") from error
        except OSError as error:
            raise disk_error(what, f"datastore {self.name} at {self.path}", error) from error

    def _identity(self, root: Folder) -> UUID:
        if not root.has(IDENTITY):
            raise NotFound(
                f"{self.path} is no datastore: there is no file {IDENTITY} in it",
                hint="Mount its file system, or give the path of a datastore.",
            )
        try:
            content = json.loads(root.read(IDENTITY))
            identity, version = UUID(content["id"]), content["version"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"{self.path / IDENTITY} is damaged", hint="Restore it from a backup.") from error
        if version != VERSION:
            raise InvalidInput(f"{self.path} is a datastore of version {version}; this kvmove knows {VERSION}")
        return identity


def _checked(name: str, kind: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} cannot be the name of a {kind}", hint="Use letters, digits and inner . _ - only.")
    return name


def _make_file(
    root: Folder, folder: Folder, path: Path, disk: DiskDefinition, reserve: int, below: Layer | None
) -> None:
    thick = disk.provisioning is Provisioning.THICK
    need = disk.size if thick else reserve
    with claims.locked(root) if need else nullcontext():
        if need:
            reservation.require_free(root, need)
        if disk.format is DiskFormat.RAW:
            with RawTarget.create(path, disk.size, thick=thick, dir_fd=folder.fileno()) as target:
                target.sync()
        else:
            qcow2.create(path, disk.size, backing=below, thick=thick)
            folder.sync_file(path.name)
        if reserve and not thick:
            reservation.promise(folder, path.name, reserve)


def _uuid(name: str) -> UUID | None:
    """The VM whose folder is called so; None for any other file."""
    try:
        vm = UUID(name)
    except ValueError:
        return None
    return vm if str(vm) == name else None
