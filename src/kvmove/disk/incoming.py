"""The folder of a VM that moves in: partial until the move hands the VM over.

Disks of an unfinished move lie where they will stay, because QEMU opens them by path and opens them again when it
takes over. What tells a partial folder from a whole one is a marker in it, `.incoming-<move id>`.

Invariant: a folder with a marker belongs to that move. The folder appears with its marker, by one rename, and with it
nobody may start a VM from there. Only `commit` takes the marker out, and only for its own move.

All functions get the datastore's root folder and raise OSError as the system calls do.
"""

from uuid import UUID

from kvmove.disk.folder import Folder
from kvmove.errors import Busy

_MARKER = ".incoming-"
_NEW = ".kvmove-new-"

RESERVE_SUFFIX = ".reserve"
"""Of what says how much space a disk in a partial folder was promised; see `reservation`."""


def begin(root: Folder, vm: UUID, move_id: str) -> None:
    """Make the folder with its marker, durably. Repeating it for the same move changes nothing.

    :raise Busy: there is a folder that is whole, or another move's.
    """
    if root.has(str(vm)):
        require(root, vm, move_id)
        return
    new = f"{_NEW}{vm}"
    if root.has(new):
        root.remove_tree(new)  # of an agent that died right here
    with root.make_folder(new) as folder:
        folder.write_new(_MARKER + move_id, b"")
    root.rename(new, root, str(vm))


def move_of(root: Folder, vm: UUID) -> str | None:
    """The move that the VM's folder is partial for; None when it is whole."""
    with root.folder(str(vm)) as folder:
        return next((name.removeprefix(_MARKER) for name in folder.names() if is_marker(name)), None)


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
