"""Whether a VM's swap file has its place where the VM goes. Pure.

The file itself never moves: memory goes over the wire, into the file that the destination's QEMU has made. So in a
move to another host there are two at once, also in a datastore that both hosts reach.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvmove.migration.findings import blocker, warning
from kvmove.migration.preflight_disks import Pair, destination_datastore, room_for_disks
from kvmove.model.finding import Finding
from kvmove.model.host import DatastoreInfo
from kvmove.model.vm import SWAP_WITH_VM
from kvmove.units import format_size


def swap_file_fits(pair: Pair) -> Iterator[Finding]:
    """In a move to another host: its datastore is there, and has room for the file besides the disks that come."""
    name, definition = pair.destination.name, pair.vm.definition
    if definition.swap_datastore is None:
        return
    store = _swap_store(pair)
    if store is None:
        if definition.swap != SWAP_WITH_VM:  # that the disk's datastore is missing is said already
            yield blocker(
                "swap-datastore-missing",
                f"{name} has no datastore {definition.swap_datastore}, where the swap file of {definition.name} is "
                "to be",
                f"give {name} a datastore of that name in its agent.toml, or define the VM with another swap",
            )
        return
    if store.devices is not None:
        yield blocker(
            "swap-on-devices",
            f"datastore {store.name} on {name} has block devices for disks, and no place for the swap file of "
            f"{definition.name}",
            'define the VM with swap = "host:DATASTORE" or "none", or choose another datastore for its first disk',
        )
        return
    disks = room_for_disks(pair).get(store.id, 0)
    needed = disks + definition.memory
    if disks <= store.free < needed:  # that the disks alone do not fit is said already
        yield blocker(
            "swap-no-room",
            f"datastore {store.name} on {name} has {format_size(store.free)} free, and the swap file of "
            f"{definition.name}{' needs' if not disks else ' and the disks that come need'} {format_size(needed)}",
            f"free {format_size(needed - store.free)} there, or choose another datastore for the disks or for the swap",
        )


def swap_file_stays(pair: Pair) -> Iterator[Finding]:
    """In a storage move: QEMU goes on, and so does the file that it has."""
    definition = pair.vm.definition
    store = _swap_store(pair)
    if definition.swap == SWAP_WITH_VM and store is not None and store.name != definition.disks[0].datastore:
        yield warning(
            "swap-stays",
            f"the swap file of {definition.name} stays in datastore {definition.disks[0].datastore} until the VM is "
            "started anew or moves to another host",
            f"keep that datastore until then, and {format_size(definition.memory)} free in {store.name}",
        )


def _swap_store(pair: Pair) -> DatastoreInfo | None:
    """The destination's datastore that the VM's swap file goes to."""
    definition = pair.vm.definition
    if definition.swap == SWAP_WITH_VM:
        return destination_datastore(pair.request, definition.disks[0], pair.source, pair.destination)
    return next((it for it in pair.destination.datastores if it.name == definition.swap_datastore), None)
