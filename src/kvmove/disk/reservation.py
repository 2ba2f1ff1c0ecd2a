"""Space that was promised to disks of moves under way, and that they have not taken yet.

    <uuid>/.<file>.reserve      how many bytes were promised to <file>, in a folder that is partial (see `incoming`)

Invariant: no byte that is free now is promised twice, on whatever host, as long as everybody asks under the lock of the
datastore (`claims.locked`). A promise ends with the folder, or when the folder becomes whole.

Deliberately not here: what others write into the same file system, guests with thin disks among them.
"""

import contextlib
import os

from kvmove.disk import incoming
from kvmove.disk.folder import Folder
from kvmove.errors import CheckFailed
from kvmove.units import format_size


def require_free(root: Folder, need: int) -> None:
    """:raise CheckFailed: less than `need` bytes are free and not promised."""
    free = root.space()[1]
    promised = outstanding(root)
    if free - promised < need:
        besides = f", of which {format_size(promised)} are promised to moves under way" if promised else ""
        raise CheckFailed(
            f"the datastore has {format_size(free)} free{besides}; the disk's data needs {format_size(need)}",
            hint="Free space on the datastore, or choose another.",
        )


def promise(folder: Folder, file: str, size: int) -> None:
    """`file` in the partial `folder` is going to take `size` bytes; durable."""
    folder.write_new(_note(file), str(size).encode())


def outstanding(root: Folder) -> int:
    """Bytes that were promised and are not taken yet."""
    total = 0
    for name in root.names():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), root.folder(name) as folder:
            names = folder.names()
            if any(incoming.is_marker(entry) for entry in names):
                total += sum(_missing(folder, file) for file in names if _note(file) in names)
    return total


def _missing(folder: Folder, file: str) -> int:
    taken = os.lstat(file, dir_fd=folder.fileno()).st_blocks * 512
    try:
        return max(0, int(folder.read(_note(file))) - taken)
    except ValueError:
        return 0  # its writer died before it wrote the number, and the move is given up


def _note(file: str) -> str:
    return f".{file}{incoming.RESERVE_SUFFIX}"
