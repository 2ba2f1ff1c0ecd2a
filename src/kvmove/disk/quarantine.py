"""Disks that a finished move left behind, put aside for a time of grace; and the way every folder is deleted.

    .kvmove-quarantine/<uuid>.<move id>/            disks of a VM with a tombstone.json beside them
    .kvmove-quarantine/<uuid>.gone-<random>/        a folder that is being deleted; no tombstone

Invariant: if all of a VM's disks here leave, its folder leaves its place by one rename; if some stay, the others leave
one by one, each by a rename, and a repetition takes those that are left. What has no tombstone was being deleted when
the agent died, and `purge` takes it at any age.

All functions get the datastore's root folder and raise OSError as the system calls do.
"""

import json
from typing import NamedTuple
from uuid import UUID, uuid4

from kvmove.disk import incoming
from kvmove.disk.folder import Folder

QUARANTINE = ".kvmove-quarantine"
TOMBSTONE = "tombstone.json"


class Quarantined(NamedTuple):
    """What a move left behind. `since` is the wall clock (seconds since 1970) when it was put there."""

    name: str
    vm: UUID
    move_id: str
    since: float


class Leaving(NamedTuple):
    """Disks of a VM that go, and all its other disks. If none of the others lies in the folder, all in it goes."""

    disks: tuple[str, ...]
    others: tuple[str, ...] = ()


def put_aside(root: Folder, vm: UUID, move_id: str, leaving: Leaving, now: float) -> str:
    """Move the disks that leave into the quarantine, durably, or find them there already. Return the path of their
    folder below the root."""
    name = f"{vm}.{move_id}"
    tombstone = json.dumps({"vm": str(vm), "move_id": move_id, "since": now}).encode()
    with _open(root) as quarantine:
        if any(incoming.has_disk(root, vm, disk) for disk in leaving.others):
            _put_aside_some(root, vm, quarantine, (name, tombstone, incoming.files_of(leaving.disks)))
        elif root.has(str(vm)) or not quarantine.has(name):
            with root.folder(str(vm)) as folder:
                if folder.has(TOMBSTONE):
                    folder.remove(TOMBSTONE)  # of an attempt that was interrupted
                folder.write_new(TOMBSTONE, tombstone)
            root.rename(str(vm), quarantine, name)
    return f"{QUARANTINE}/{name}"


def _put_aside_some(root: Folder, vm: UUID, quarantine: Folder, what: tuple[str, bytes, set[str]]) -> None:
    name, tombstone, files = what
    if not quarantine.has(name):
        new = f"{vm}.gone-{uuid4().hex}"  # without its tombstone it is nothing yet
        with quarantine.make_folder(new) as aside:
            aside.write_new(TOMBSTONE, tombstone)
        quarantine.rename(new, quarantine, name)
    with root.folder(str(vm)) as folder, quarantine.folder(name) as aside:
        for file in files & set(folder.names()):
            folder.rename(file, aside, file)


def delete(root: Folder, vm: UUID) -> None:
    """Delete the VM's folder beyond recovery, durably. It vanishes from its place before anything in it does."""
    name = f"{vm}.gone-{uuid4().hex}"
    with _open(root) as quarantine:
        root.rename(str(vm), quarantine, name)
        quarantine.remove_tree(name)
        quarantine.sync()


def put_aside_all(root: Folder) -> list[Quarantined]:
    """What is put aside, without what is being deleted."""
    found = []
    with _open(root) as quarantine:
        for name in quarantine.names():
            since = _since(quarantine, name)
            if since is not None:
                vm, _, move_id = name.partition(".")
                found.append(Quarantined(name, UUID(vm), move_id, since))
    return found


def purge(root: Folder, before: float) -> list[str]:
    """Delete what was put aside before this time (seconds since 1970), durably. Return the names."""
    gone = []
    with _open(root) as quarantine:
        for name in quarantine.names():
            since = _since(quarantine, name)
            if since is None or since <= before:
                quarantine.remove_tree(name)
                gone.append(name)
        quarantine.sync()
    return gone


def _open(root: Folder) -> Folder:
    if root.has(QUARANTINE):
        return root.folder(QUARANTINE)
    folder = root.make_folder(QUARANTINE)
    root.sync()
    return folder


def _since(quarantine: Folder, name: str) -> float | None:
    try:
        with quarantine.folder(name) as folder:
            return float(json.loads(folder.read(TOMBSTONE))["since"])
    except FileNotFoundError:
        return None  # no tombstone; or another host has just deleted it all
    except (ValueError, KeyError, TypeError):
        return float("inf")  # damaged: kept, rather than deleted too early
