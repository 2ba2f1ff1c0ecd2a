"""The images below the disks of a datastore: nobody writes to them, several disks may rest on one.

    .kvmove-images/<digest>.<format>                       whole; the digest is that of what a guest reads from it
    .kvmove-images/.incoming-<move id>-<digest>.<format>   being brought by a move

Invariant: what has its own name is whole, durable, and never written again; it appears by one rename. An image rests
on another of the same folder, which was there first.

Who takes them away when no disk rests on them any more: nobody yet. All functions get the datastore's root folder and
raise OSError as the system calls do.
"""

import contextlib
from pathlib import Path

from kvmove.disk import qcow2, reservation
from kvmove.disk.folder import Folder
from kvmove.disk.qcow2 import Layer
from kvmove.disk.raw_target import RawTarget
from kvmove.model.image import BaseImage
from kvmove.model.vm import DiskFormat

FOLDER = ".kvmove-images"

_INCOMING = ".incoming-"


def path_of(store: Path, base: BaseImage) -> Path:
    """Where it lies or will lie."""
    return store / FOLDER / _name(base)


def is_there(root: Folder, base: BaseImage) -> bool:
    """Whether the datastore has it, whole."""
    with _folder(root) as folder:
        return folder.has(_name(base))


def begin(root: Folder, store: Path, base: BaseImage, move_id: str) -> None:
    """Make the file that it is brought into, anew if an earlier try has left one.

    :raise CheckFailed: too little is free.
    """
    reservation.require_free(root, base.size)
    with _folder(root) as folder:
        name = _partial(base, move_id)
        if folder.has(name):
            folder.remove(name)
        RawTarget.create(store / FOLDER / name, base.size, dir_fd=folder.fileno()).close()


def open_target(root: Folder, store: Path, base: BaseImage, move_id: str) -> RawTarget:
    """The file that it is brought into, to be written."""
    with _folder(root) as folder:
        return RawTarget(store / FOLDER / _partial(base, move_id), dir_fd=folder.fileno())


def commit(root: Folder, store: Path, base: BaseImage, below: BaseImage | None, move_id: str) -> None:
    """It was brought and synced: let it rest on `below` and give it its name. Repeating it changes nothing.

    :raise MoveFailed: it is no image of its format.
    """
    with _folder(root) as folder:
        name = _partial(base, move_id)
        if not folder.has(name):
            return
        if below is not None and base.format is not DiskFormat.RAW:
            qcow2.rebase_unsafe(store / FOLDER / name, Layer(path_of(store, below), below.format))
        folder.sync_file(name)
        if folder.has(_name(base)):  # another move was faster
            folder.remove(name)
        else:
            folder.rename(name, folder, _name(base))


def discard(root: Folder, move_id: str) -> None:
    """Delete what this move has begun to bring. Nothing happens when there is nothing."""
    with contextlib.suppress(FileNotFoundError), root.folder(FOLDER) as folder:
        for name in folder.names():
            if name.startswith(f"{_INCOMING}{move_id}-"):
                folder.remove(name)
        folder.sync()


def unfinished_moves(root: Folder) -> set[str]:
    """The moves that have begun to bring an image."""
    with contextlib.suppress(FileNotFoundError), root.folder(FOLDER) as folder:
        return {
            name.removeprefix(_INCOMING).rpartition("-")[0] for name in folder.names() if name.startswith(_INCOMING)
        }
    return set()


def known_digest(path: Path) -> str:
    """The digest of an image that lies in such a folder; empty for any other."""
    return path.stem if path.parent.name == FOLDER and len(path.stem) == 64 else ""


def _folder(root: Folder) -> Folder:
    if not root.has(FOLDER):
        with contextlib.suppress(FileExistsError):
            root.make_folder(FOLDER).close()
        root.sync()
    return root.folder(FOLDER)


def _name(base: BaseImage) -> str:
    return f"{base.digest}.{base.format}"


def _partial(base: BaseImage, move_id: str) -> str:
    return f"{_INCOMING}{move_id}-{_name(base)}"
