"""The disks of a VM that a move brings: partial until the move hands them over.

Disks of an unfinished move lie where they will stay, because QEMU opens them by path and opens them again when it
takes over. What tells partial disks from whole ones is a marker in the VM's folder, `.incoming-<move id>`, which names
them. Other disks of the VM may lie in the same folder, whole.

Invariant: a disk that a marker names belongs to that move, and nobody may start a VM with it. A folder that a move
makes appears with its marker, by one rename. Only `commit` takes a marker out, and only for its own move. One move at a
time has a marker in a folder.

All functions get the datastore's root folder and raise OSError as the system calls do.
"""

from collections.abc import Iterable
from uuid import UUID

from kvmove.disk.folder import Folder
from kvmove.errors import Busy
from kvmove.model.vm import DiskFormat

_MARKER = ".incoming-"
_NEW = ".kvmove-new-"

RESERVE_SUFFIX = ".reserve"
"""Of what says how much space a disk in a partial folder was promised; see `reservation`."""


DEVICE_SUFFIX = ".device"
"""Of what says on which block device a disk lies; see `claims`."""

NEW_SUFFIX = ".new"
"""Of what is being written and has yet to get its name."""

FROZEN_SUFFIX = ".frozen"
"""Of a copy of a disk as it was at a switchover."""


def files_of(disks: Iterable[str]) -> set[str]:
    """The names that files of these disks may have in a VM's folder."""
    disks = list(disks)
    images = {f"{disk}{suffix}" for disk in disks for suffix in (*(f".{form}" for form in DiskFormat), DEVICE_SUFFIX)}
    notes = {f".{image}{suffix}" for image in images for suffix in (RESERVE_SUFFIX, NEW_SUFFIX)}
    return images | notes | {f"{disk}{FROZEN_SUFFIX}" for disk in disks}


def begin(root: Folder, vm: UUID, move_id: str, disks: Iterable[str]) -> None:
    """Mark these disks as partial, before there is anything of them, durably; make the VM's folder if there is none.
    Repeating it for the same move changes nothing.

    :raise Busy: one of them is here, or another move brings disks of the VM.
    """
    names = sorted(disks)
    content = "\n".join(names).encode()
    if root.has(str(vm)):
        _begin_beside(root, vm, move_id, names)
        return
    new = f"{_NEW}{vm}"
    if root.has(new):
        root.remove_tree(new)  # of an agent that died right here
    with root.make_folder(new) as folder:
        folder.write_new(_MARKER + move_id, content)
    root.rename(new, root, str(vm))


def _begin_beside(root: Folder, vm: UUID, move_id: str, names: list[str]) -> None:
    found = move_of(root, vm)
    if found is not None:
        require(root, vm, move_id)
        return
    with root.folder(str(vm)) as folder:
        if here := sorted(files_of(names) & set(folder.names())):
            raise Busy(
                f"{', '.join(here)} of {vm} is here already, and belongs to the VM itself",
                hint="The VM is on this host already; it or what is left of it.",
            )
        folder.write_new(_MARKER + move_id, "\n".join(names).encode())


def move_of(root: Folder, vm: UUID) -> str | None:
    """The move that brings disks of the VM; None when all that is here is whole."""
    with root.folder(str(vm)) as folder:
        return _move_in(folder)


def move_of_disk(root: Folder, vm: UUID, disk: str) -> str | None:
    """The move that brings this disk; None when it is whole."""
    with root.folder(str(vm)) as folder:
        move = _move_in(folder)
        return move if move is not None and disk in _named(folder, move) else None


def _move_in(folder: Folder) -> str | None:
    return next((name.removeprefix(_MARKER) for name in folder.names() if is_marker(name)), None)


def _named(folder: Folder, move_id: str) -> list[str]:
    return folder.read(_MARKER + move_id).decode().splitlines()


def is_marker(name: str) -> bool:
    """Whether a folder with this entry is partial."""
    return name.startswith(_MARKER)


def require(root: Folder, vm: UUID, move_id: str | None) -> None:
    """:raise Busy: the folder is not partial for this move, or, with None, it is partial."""
    found = move_of(root, vm)
    if found != move_id:
        owner = f"belong to move {found}" if found else "belong to the VM itself"
        hint = "End that move first." if found else "The VM is on this host already; it or what is left of it."
        raise Busy(f"the disks of {vm} here {owner}, not to {move_id or 'the VM'}", hint=hint)


def commit(root: Folder, vm: UUID, move_id: str) -> None:
    """Make the folder whole, durably. Repeating it changes nothing.

    :raise Busy: it is partial for another move.
    """
    if move_of(root, vm) is None:
        return
    require(root, vm, move_id)
    with root.folder(str(vm)) as folder:
        for name in folder.names():
            if name.endswith(RESERVE_SUFFIX):
                folder.remove(name)
        folder.sync()  # the disks' entries, before what says that they are all there
        folder.remove(_MARKER + move_id)
        folder.sync()


def has_disk(root: Folder, vm: UUID, disk: str) -> bool:
    """Whether there is any file of this disk."""
    if not root.has(str(vm)):
        return False
    with root.folder(str(vm)) as folder:
        return not files_of([disk]).isdisjoint(folder.names())


def discard(root: Folder, vm: UUID, move_id: str) -> bool:
    """Delete what the move has brought, durably, if other disks lie in the folder. False when none do, and nothing was
    deleted: then the whole folder may go.

    :raise Busy: another move brings disks of the VM.
    """
    if move_of(root, vm) is None:
        return True
    require(root, vm, move_id)
    with root.folder(str(vm)) as folder:
        brought = files_of(_named(folder, move_id))
        if not {name for name in folder.names() if not is_marker(name)} - brought:
            return False
        for name in brought & set(folder.names()):
            folder.remove(name)
        folder.sync()
        folder.remove(_MARKER + move_id)
        folder.sync()
    return True
