"""Where each disk of a move goes, or that it stays, and what blocks that. Pure.

A datastore is recognised by its identity, never by its name or path: a disk stays where both hosts reach the datastore
that it is on. A disk that stays is not copied, made or deleted by anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple
from uuid import UUID

from kvmove.migration.findings import blocker, warning
from kvmove.migration.preflight_images import (
    NO_IMAGES,
    Images,
    NewImage,
    devices_suffice,
    moving_image,
    new_image,
    staying_image,
)
from kvmove.migration.probed import NOT_PROBED, Probed
from kvmove.model.finding import Finding
from kvmove.model.host import DatastoreInfo, HostInfo
from kvmove.model.move import DiskRequest, MoveRequest, Via
from kvmove.model.vm import DiskDefinition, VmState, VmStatus
from kvmove.units import format_size


class Pair(NamedTuple):
    """A situation whose two hosts have reported."""

    request: MoveRequest
    vm: VmStatus
    source: HostInfo
    destination: HostInfo
    images: Images = NO_IMAGES
    probed: Probed = NOT_PROBED


def destination_datastore(
    request: MoveRequest, disk: DiskDefinition, source: HostInfo, destination: HostInfo
) -> DatastoreInfo | None:
    """Where a disk goes: the datastore asked for, else the one that it is on if the destination reaches that, else the
    destination's of the same name. None: there is none."""
    wanted = wanted_datastore(request, disk)
    if wanted is None and (same := _by_id(destination, _current(disk, source))) is not None:
        return same
    return next((store for store in destination.datastores if store.name == (wanted or disk.datastore)), None)


def wanted_datastore(request: MoveRequest, disk: DiskDefinition) -> str | None:
    """The destination's datastore that the operator names for the disk; None: none."""
    asked = request.disks.get(disk.name)
    return (asked.datastore if asked is not None else None) or request.datastore


def stays_in_place(request: MoveRequest, disk: DiskDefinition, source: HostInfo, destination: HostInfo) -> bool:
    """Whether the disk stays where it is, on a datastore that both hosts reach."""
    store = destination_datastore(request, disk, source, destination)
    return store is not None and store.id == _current(disk, source)


def needs_nics(pair: Pair) -> bool:
    """Whether anything crosses the migration NICs. Not for a VM that is off, and whose disks stay or take the storage
    network."""
    disks = pair.vm.definition.disks
    moving = [disk for disk in disks if not _stays(pair, disk)]
    over_storage = storage_way(pair.request, disks, pair.source, pair.destination).names
    return pair.vm.state is not VmState.OFF or (bool(moving) and not over_storage)


class StorageWay(NamedTuple):
    """Whether disks go over the storage network. `names` are the source's names of the destination's datastores, by
    the disk's name; empty means the migration NICs."""

    names: dict[str, str]
    why: str


def storage_way(
    request: MoveRequest, disks: tuple[DiskDefinition, ...], source: HostInfo, destination: HostInfo
) -> StorageWay:
    """The way for the disks that move: all of them take the same, because one move has one kind of stream."""
    if source.name == destination.name:
        return StorageWay({}, "")
    moving = [disk for disk in disks if not stays_in_place(request, disk, source, destination)]
    names: dict[str, str] = {}
    for disk in moving:
        store = destination_datastore(request, disk, source, destination)
        own = _by_id(source, store.id) if store is not None else None
        if own is None:
            return StorageWay({}, f"{source.name} does not reach {store.name if store else 'its datastore'}")
        if disk.cache != "none":
            return StorageWay({}, f"disk {disk.name} goes through the page cache")
        names[disk.name] = own.name
    if request.via is Via.MIGRATION:
        return StorageWay({}, "as asked for")
    return StorageWay(names, f"{source.name} reaches the datastore too")


def _current(disk: DiskDefinition, source: HostInfo) -> UUID | None:
    return next((store.id for store in source.datastores if store.name == disk.datastore), None)


def _by_id(host: HostInfo, identity: UUID | None) -> DatastoreInfo | None:
    return next((store for store in host.datastores if store.id == identity), None)


def _goes_to(pair: Pair, disk: DiskDefinition) -> DatastoreInfo | None:
    return destination_datastore(pair.request, disk, pair.source, pair.destination)


def _stays(pair: Pair, disk: DiskDefinition) -> bool:
    return stays_in_place(pair.request, disk, pair.source, pair.destination)


def _named_disks_exist(pair: Pair) -> Iterator[Finding]:
    known = [disk.name for disk in pair.vm.definition.disks]
    for name in pair.request.disks:
        if name not in known:
            yield blocker(
                "disk-unknown",
                f"{pair.vm.definition.name} has no disk {name}",
                f"its disks are: {', '.join(known)}" if known else "it has no disks",
            )


def _datastores_exist(pair: Pair) -> Iterator[Finding]:
    known = [store.name for store in pair.destination.datastores]
    missing = [disk for disk in pair.vm.definition.disks if _goes_to(pair, disk) is None]
    for name in dict.fromkeys(wanted_datastore(pair.request, disk) or disk.datastore for disk in missing):
        yield blocker(
            "datastore-missing",
            f"{pair.destination.name} has no datastore {name}",
            f"choose one with --datastore: {', '.join(known)}" if known else "list one in its agent.toml",
        )


def _staying_disks_are_not_cached(pair: Pair) -> Iterator[Finding]:
    """A host's page cache knows nothing of what another host writes to a file that both see."""
    cached = [disk.name for disk in pair.vm.definition.disks if _stays(pair, disk) and disk.cache != "none"]
    if cached and pair.vm.state is not VmState.OFF:
        yield blocker(
            "disk-cached-on-shared",
            f"disk {', '.join(cached)} stays on a datastore that both hosts share, and goes through the page cache of "
            "the host it runs on",
            'shut the VM down and define the disk with cache = "none", or move the disk to another datastore with '
            "--disk",
        )


def _images_can_move(pair: Pair) -> Iterator[Finding]:
    for disk in pair.vm.definition.disks:
        store = _goes_to(pair, disk)
        if store is None:
            continue
        if _stays(pair, disk):
            yield from staying_image(disk, _kept_image(pair, disk), pair.source, pair.images)
        else:
            yield from moving_image(disk, new_image(pair.request, disk, store, pair.images), store, pair.images)


def _kept_image(pair: Pair, disk: DiskDefinition) -> NewImage:
    """What is asked for a disk that stays."""
    asked = pair.request.disks.get(disk.name) or DiskRequest()
    form = asked.format or pair.request.format or disk.format
    return NewImage(form, asked.provisioning or pair.request.provisioning or disk.provisioning)


def room_for_disks(pair: Pair, *, full: bool = False) -> dict[UUID, int]:
    """What the disks that come need in the destination's datastores (bytes), by the datastore's identity. A thin disk
    counts with what it takes now, or, with `full`, with what it may take one day."""
    needed: dict[UUID, int] = {}
    for disk in pair.vm.definition.disks:
        store = _goes_to(pair, disk)
        if store is not None and not _stays(pair, disk):
            new = new_image(pair.request, disk, store, pair.images)
            size = disk.size if full else new.space
            needed[store.id] = needed.get(store.id, 0) + size + sum(image.size for image in new.backing)
    return needed


def _datastores_have_room(pair: Pair) -> Iterator[Finding]:
    stores = {store.id: store for store in pair.destination.datastores}
    full = room_for_disks(pair, full=True)
    for identity, size in room_for_disks(pair).items():
        if (free := stores[identity].devices) is not None:
            yield from _devices(pair, stores[identity], free)
        else:
            yield from _room(pair.destination.name, stores[identity], size, full[identity])


def _room(host: str, store: DatastoreInfo, needed: int, full: int) -> Iterator[Finding]:
    if needed > store.free:
        yield blocker(
            "datastore-full",
            f"datastore {store.name} on {host} has {format_size(store.free)} free, and the disks need "
            f"{format_size(needed)}",
            f"free {format_size(needed - store.free)} there, or choose another datastore with --datastore",
        )
    elif full > store.free:
        yield warning(
            "datastore-may-fill",
            f"datastore {store.name} on {host} has {format_size(store.free)} free, and the disks, which are thin, may "
            f"grow to {format_size(full)}",
            "watch it: QEMU stops a guest whose disk finds no space",
        )
    elif store.free - needed < store.size // 20:
        yield warning(
            "datastore-nearly-full",
            f"datastore {store.name} on {host} will be more than 95 % full once the disks are there",
            "move or delete something there soon",
        )


def _devices(pair: Pair, store: DatastoreInfo, free: tuple[int, ...]) -> Iterator[Finding]:
    coming = [disk.size for disk in pair.vm.definition.disks if _goes_to(pair, disk) == store]
    if not devices_suffice(coming, free):
        sizes = ", ".join(map(format_size, sorted(free))) or "none"
        yield blocker(
            "device-missing",
            f"datastore {store.name} on {pair.destination.name} has no free devices for disks of "
            f"{', '.join(map(format_size, coming))}; free: {sizes}",
            "add devices to it in the host's agent.toml, or choose another datastore with --datastore",
        )


def _something_moves(pair: Pair) -> Iterator[Finding]:
    disks = pair.vm.definition.disks
    if all(_stays(pair, disk) for disk in disks):
        yield blocker(
            "nothing-to-move",
            f"{pair.vm.definition.name} is on {pair.source.name} already, and so are its disks where they should be",
            "name another host, or another datastore with --datastore or --disk",
        )


STORAGE_CHECKS: tuple[Callable[[Pair], Iterator[Finding]], ...] = (
    _named_disks_exist,
    _datastores_exist,
    _something_moves,
    _images_can_move,
    _datastores_have_room,
)
"""Where the VM stays on its host."""


def _way_is_there(pair: Pair) -> Iterator[Finding]:
    way = storage_way(pair.request, pair.vm.definition.disks, pair.source, pair.destination)
    if pair.request.via is Via.STORAGE and not way.names:
        yield blocker(
            "storage-network-missing",
            f"the disks cannot go over the storage network: {way.why}",
            "leave out --via storage",
        )


DISK_CHECKS: tuple[Callable[[Pair], Iterator[Finding]], ...] = (
    _named_disks_exist,
    _datastores_exist,
    _staying_disks_are_not_cached,
    _images_can_move,
    _datastores_have_room,
    _way_is_there,
)
