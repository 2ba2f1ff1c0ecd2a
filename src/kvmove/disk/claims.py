"""Which disk has which block device, in a datastore of devices.

    <uuid>/<disk>.device        a claim: {"device": path as configured, "size": the disk's bytes}
    .kvmove-lock                held while somebody looks for a free device and claims it, on whatever host

A claim lives and dies with the folder it lies in: one in the quarantine, or in a folder that is being deleted, counts
still. So a device is free again only once nothing is left that could be a VM's disk.

Invariant: a device has one claim at most, and no path is followed that the administrator's globs do not match now,
whatever a claim says. What cannot be read counts as a claim on everything: no device is given away then.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kvmove.disk import block_device, incoming
from kvmove.disk.block_device import BlockDevice
from kvmove.disk.errors import DiskError
from kvmove.disk.folder import Folder
from kvmove.disk.quarantine import QUARANTINE
from kvmove.errors import CheckFailed, NotFound
from kvmove.units import format_size

LOCK = ".kvmove-lock"
SUFFIX = incoming.DEVICE_SUFFIX
"""Of a claim's file, behind the disk's name."""


class Claim(NamedTuple):
    """`device` is for the disk, which is its first `size` bytes."""

    device: Path
    size: int


@contextmanager
def locked(root: Folder) -> Iterator[None]:
    """Alone in the datastore, among all threads and hosts that ask for it. Waits for the others."""
    fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=root.fileno())
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class Devices:
    """The devices that `globs` match, each time anew. All methods raise OSError as the system calls do."""

    def __init__(self, globs: Sequence[str]) -> None:
        self._globs = tuple(globs)

    def claim(self, root: Folder, folder: Folder, disk: str, size: int) -> Path:
        """Give the disk the smallest free device that is large enough, durably; `folder` is its VM's.

        A device's size in bytes must be at least `size`, and `size` a multiple of its logical block.

        :raise CheckFailed: there is none. :raise DiskError: the disk has a device, or a claim cannot be read.
        """
        with locked(root):
            if folder.has(disk + SUFFIX):
                raise DiskError(f"disk {disk} has a device already")
            free = self._free(root)
            fitting = [path for path, device in free.items() if device.size >= size and not size % device.block]
            if not fitting:
                raise self._nothing_for(disk, size, free)
            chosen = min(fitting, key=lambda path: (free[path].size, path))
            new = f".{disk}{SUFFIX}{incoming.NEW_SUFFIX}"
            if folder.has(new):
                folder.remove(new)  # of an agent that died right here
            folder.write_new(new, json.dumps({"device": str(chosen), "size": size}).encode())
            folder.rename(new, folder, disk + SUFFIX)
        return chosen

    def of(self, folder: Folder, disk: str) -> Claim:
        """The device that the disk has.

        :raise DiskError: the claim cannot be read. :raise FileNotFoundError: the disk has none.
        :raise NotFound: the device is not there now, or the configuration does not allow it.
        """
        claim = _read(folder, disk + SUFFIX)
        if str(claim.device) not in self._matching():
            raise NotFound(
                f"disk {disk} lies on {claim.device}, which is not there, or no device of this datastore",
                hint="Connect the device to this host, or name it in the datastore's `devices` in agent.toml.",
            )
        device = block_device.look(claim.device)
        if device is None or device.size < claim.size:
            raise NotFound(f"{claim.device} of disk {disk} is no block device of {claim.size} bytes")
        return claim

    def free(self, root: Folder) -> dict[Path, BlockDevice]:
        """Those that nothing uses and nobody claims.

        :raise DiskError: a claim cannot be read.
        """
        with locked(root):  # else our look would make a device seem in use to another host's on the same kernel
            return self._free(root)

    def claimed_size(self, root: Folder) -> int:
        """Bytes of the devices that are claimed and there."""
        looked = [block_device.look(path) for path in {claim.device for claim in _all(root)} & set(self._paths())]
        return sum(device.size for device in looked if device is not None)

    def _free(self, root: Folder) -> dict[Path, BlockDevice]:
        claimed = {claim.device for claim in _all(root)}
        looked = [block_device.look(path) for path in claimed & set(self._paths())]
        numbers = {device.number for device in looked if device is not None}
        free = {}
        for path in self._paths():
            device = block_device.look(path, exclusively=True) if path not in claimed else None
            if device is not None and device.number not in numbers:
                numbers.add(device.number)  # the same device by another path is not one more
                free[path] = device
        return free

    def _matching(self) -> set[str]:
        return {str(path) for pattern in self._globs for path in Path("/").glob(pattern.lstrip("/"))}

    def _paths(self) -> list[Path]:
        return [Path(path) for path in sorted(self._matching())]

    def _nothing_for(self, disk: str, size: int, free: dict[Path, BlockDevice]) -> CheckFailed:
        sizes = ", ".join(format_size(it) for it in sorted(device.size for device in free.values())) or "none"
        return CheckFailed(
            f"no free device is large enough for disk {disk} of {format_size(size)}; free are: {sizes}",
            hint=f"Make a device that {' or '.join(self._globs)} matches, or choose another datastore.",
        )


def _all(root: Folder) -> Iterator[Claim]:
    """All claims. A folder only ever goes from its place into the quarantine, so it is seen in one of the two."""
    yield from _below(root, (name for name in root.names() if name != QUARANTINE))
    if root.has(QUARANTINE):
        with root.folder(QUARANTINE) as quarantine:
            yield from _below(quarantine, quarantine.names())


def _below(parent: Folder, names: Iterable[str]) -> Iterator[Claim]:
    for name in names:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), parent.folder(name) as folder:
            for entry in folder.names():  # the folder is no folder, or was put aside or deleted just now
                if entry.endswith(SUFFIX):
                    with contextlib.suppress(FileNotFoundError):
                        yield _read(folder, entry)


def _read(folder: Folder, name: str) -> Claim:
    content = folder.read(name)
    try:
        raw = json.loads(content)
        claim = Claim(Path(raw["device"]), raw["size"])
    except (ValueError, KeyError, TypeError) as error:
        raise DiskError(f"the claim {name} on a device is damaged; restore it from a backup") from error
    if type(claim.size) is not int or claim.size <= 0:
        raise DiskError(f"the claim {name} on {claim.device} is damaged; restore it from a backup")
    return claim
