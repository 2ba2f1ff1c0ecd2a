"""What a disk holds, as one short text: two disks with equal digests hold equal bytes.

The digest is SHA-256 (processors have instructions for it; BLAKE2b took twice the time) over the disk's size and, for
each region of 1 MiB that is not all zeroes, its offset and its bytes. So holes and zeroes are the same, and so are a
raw and a qcow2 image of the same bytes; holes cost no reading: they are skipped as the disk's extents tell.

Hashing and reading release the interpreter lock. Does not stop anyone from writing: a digest is worth something only
of a disk that stands still.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from kvmove.disk.extents import is_zero
from kvmove.disk.interface import SourceDisk
from kvmove.disk.raw_file import RawFile, aligned_buffer
from kvmove.units import MIB

REGION = MIB
"""Part of the digest's definition: another size gives other digests."""


def disk_digest(path: Path, progress: Callable[[int], None] | None = None, *, device_size: int | None = None) -> str:
    """The digest of the raw image at `path`, in hexadecimal; with `device_size` of a block device's first bytes.

    `progress` is told, after each region that was read, how far the reading is (bytes from the disk's start); what it
    raises ends the work and comes out here. Pages are dropped from the page cache once read.

    :raise DiskError: something could not be read; zeroes are not taken in its place.
    """
    with RawFile(path, device_size=device_size) as disk:
        return content_digest(disk, progress)


def content_digest(disk: SourceDisk, progress: Callable[[int], None] | None = None) -> str:
    """As `disk_digest`, of an open disk of any kind. Of an overlay it would not be that of what a guest sees."""
    if disk.is_overlay:
        raise ValueError("an overlay has gaps; open the whole disk")
    digest = hashlib.sha256(disk.size.to_bytes(8, "big"))
    buffer = aligned_buffer(REGION)
    read = 0  # end of the last region that was read
    for extent in disk.extents(0, disk.size):
        if not extent.is_data:
            continue
        end = extent.offset + extent.length
        for offset in range(max(read, extent.offset // REGION * REGION), end, REGION):
            region = buffer[: min(REGION, disk.size - offset)]
            disk.read_into(region, offset)
            if not is_zero(region):
                digest.update(offset.to_bytes(8, "big"))
                digest.update(region)
            disk.drop_cache(offset, len(region))
            read = offset + len(region)
            if progress is not None:
                progress(read)
    return digest.hexdigest()
