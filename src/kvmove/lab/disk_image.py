"""A disk of a lab's VM as it lies on a host: a file, or a block device. Filled before the first start, read afterwards.

The manager says where a datastore lies; what is in it is the agent's layout: `<uuid>/<disk>.<format>`, or
`<uuid>/<disk>.device`, which names the block device of the disk.

Invariant: whatever the format, the judge gets the bytes that the guest would read. The VM must be off.
"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from kvmove.errors import NotFound
from kvmove.lab.commands import in_host, run
from kvmove.lab.guest.prefill import Prefill, prefill
from kvmove.lab.lab import Lab
from kvmove.lab.lab_host import LabHost
from kvmove.model.vm import DiskDefinition, DiskFormat
from kvmove.units import MIB

DEVICE = ".device"


@dataclass(frozen=True)
class DiskImage:
    """One disk: `path` is what its host calls it. `scratch` is a folder that the host and this process both see."""

    host: LabHost
    path: Path
    format: DiskFormat
    size: int
    scratch: Path

    @property
    def file(self) -> Path:
        """The image as seen from outside of its host."""
        return self.host.outside(self.path)

    @property
    def is_plain(self) -> bool:
        """Whether the image is the disk, byte for byte, and nothing more."""
        return self.format is DiskFormat.RAW and stat.S_ISREG(self.file.stat().st_mode)

    def fill(self, data: Prefill, tool: Path) -> None:
        """Put the disk's first content into it, down to the storage: no write-back is to disturb a measurement.

        :raise CheckFailed: the disk is full.
        :raise LabFailed: the image is not one of its format.
        """
        if self.is_plain:
            prefill(self.file, self.size, data, tool)
        else:
            with self._passing() as raw:
                prefill(raw, self.size, data, tool)
                self._qemu_img("convert", "-n", "-f", "raw", "-O", str(self.format), str(raw), str(self.path))
        with self.file.open("rb") as content:
            os.fsync(content.fileno())

    def put_on_base(self) -> None:
        """What the image holds becomes its base; the image itself is empty, and new writes go there.

        :raise LabFailed: it is not a qcow2 image.
        """
        base = self.path.with_name(f"{self.path.stem}-base.qcow2")
        self.file.rename(self.host.outside(base))
        backing = ["-b", base.name, "-F", "qcow2"]
        self._qemu_img("create", "-q", "-f", str(self.format), *backing, str(self.path), str(self.size))

    def has_base(self) -> bool:
        """Whether part of the disk lies in another image."""
        if self.format is not DiskFormat.QCOW2:
            return False
        return "backing-filename" in json.loads(
            self._qemu_img("info", "-U", "--output=json", "-f", str(self.format), str(self.path))
        )

    @contextmanager
    def content(self) -> Iterator[Path]:
        """A raw file that holds what the guest would read.

        :raise LabFailed: the image cannot be read.
        """
        if self.is_plain:
            yield self.file
            return
        with self._passing() as raw:
            if self.format is DiskFormat.RAW:  # a device may be larger than the disk on it
                count = f"count={self.size // MIB}"
                self._qemu_img("dd", "-f", "raw", "-O", "raw", "bs=1M", count, f"if={self.path}", f"of={raw}")
            else:
                self._qemu_img("convert", "-f", str(self.format), "-O", "raw", str(self.path), str(raw))
            yield raw

    @contextmanager
    def _passing(self) -> Iterator[Path]:
        with TemporaryDirectory(dir=self.scratch) as folder:
            yield Path(folder) / "disk.raw"

    def _qemu_img(self, *words: str) -> str:
        return run(in_host(self.host.init, ["qemu-img", *words]))


async def find(lab: Lab, host: str, vm: UUID, disk: DiskDefinition) -> DiskImage:
    """Where the disk lies on `host`.

    :raise NotFound: the host has no such datastore.
    """
    stores = {store.name: store for store in await lab.manager.datastores() if store.host == host}
    if disk.datastore not in stores:
        raise NotFound(f"{host} has no datastore {disk.datastore}")
    it = lab.host(host)
    stem = Path(stores[disk.datastore].path) / str(vm) / disk.name
    path, claim = stem.with_name(f"{disk.name}.{disk.format}"), it.outside(stem.with_name(f"{disk.name}{DEVICE}"))
    if claim.exists():
        path = Path(json.loads(claim.read_text())["device"])
    return DiskImage(it, path, disk.format, disk.size, lab.folders.var)
