"""The swap file of a VM: the file in a datastore whose pages its memory is.

    <datastore>/.kvmove-swap/      mode 0700, kept; seen from outside it is empty

QEMU makes the file and unlinks it at once, so it ends with QEMU, however that ends, and the files of a source and a
destination in one datastore do not meet. An agent that starts anew has nothing to find and nothing to clear.

Invariant: all of the file's space is taken before the guest runs. A page of a file for which there is no room kills
QEMU (SIGBUS) at the moment when the guest first writes to it.

Blocking; meant for a thread. Not done here: what QEMU is told (`qemu.command_line`), and what a move checks before.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from kvmove.disk.datastore import Datastore
from kvmove.disk.errors import disk_error
from kvmove.errors import CheckFailed, MoveFailed, NotFound
from kvmove.model.vm import VmDefinition
from kvmove.units import format_size

log = logging.getLogger(__name__)


class SwapFiles:
    """Swap files in `datastores`, which go by the names that definitions use. Methods raise as the datastores do."""

    def __init__(self, datastores: Mapping[str, Datastore]) -> None:
        self._datastores = datastores

    def require_room(self, definition: VmDefinition) -> None:
        """Nothing happens when the VM has no swap file.

        :raise NotFound: this host does not have its datastore. :raise CheckFailed: too little is free there.
        """
        store = self._store(definition)
        if store is not None and (free := store.info().free) < definition.memory:
            raise CheckFailed(
                f"Datastore {store.name} has {format_size(free)} free, and the swap file of VM {definition.name} needs "
                f"{format_size(definition.memory)}",
                hint='Free space there, or define the VM with another swap: "none", or "host:" and a datastore.',
            )

    def folder(self, definition: VmDefinition) -> Path | None:
        """Where QEMU is to make the file; the folder is there. None: the VM has none. Raises as `require_room` does."""
        self.require_room(definition)
        store = self._store(definition)
        return None if store is None else store.swap_folder()

    def _store(self, definition: VmDefinition) -> Datastore | None:
        name = definition.swap_datastore
        if name is None:
            return None
        if name not in self._datastores:
            known = ", ".join(sorted(self._datastores)) or "none"
            raise NotFound(
                f"This host has no datastore {name} for the swap file of VM {definition.name}; it has {known}"
            )
        return self._datastores[name]


def take_space(pid: int, folder: Path) -> None:
    """Allocate all of the swap file that the QEMU `pid` has in `folder`, without touching a page of the guest.

    Where the file system cannot (NFS before 4.2) a warning is logged, and a datastore that gets full kills the VM.

    :raise CheckFailed: there is no room for it. :raise MoveFailed: QEMU has no such file, or the storage failed.
    """
    try:
        descriptor = os.open(_swap_file(pid, folder), os.O_RDWR | os.O_CLOEXEC)
        try:
            os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CheckFailed(f"There is no room for the swap file in {folder}", hint="Free space there.") from error
        if error.errno != errno.EOPNOTSUPP:
            raise disk_error("take the space of the swap file", folder, error) from error
        log.warning("the swap file in %s takes its space only as it fills; keep enough free there", folder)


def _swap_file(pid: int, folder: Path) -> Path:
    """The file by the link in /proc that stands for QEMU's own descriptor: it has no name any more."""
    inside = f"{folder.resolve()}/"
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if str(link.readlink()).startswith(inside):
                return link
    raise MoveFailed(f"QEMU (pid {pid}) has no swap file in {folder}")
