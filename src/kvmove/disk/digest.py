"""What a disk holds, as one short text: two disks with equal digests hold equal bytes.

The digest is SHA-256 (processors have instructions for it; BLAKE2b took twice the time) over the disk's size and, for
each region of 1 MiB that is not all zeroes, its offset and its bytes. So holes and zeroes are the same, and holes cost
no reading: SEEK_DATA skips them.

Hashing and reading release the interpreter lock. Does not stop anyone from writing: a digest is worth something only
of a disk that stands still.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from kvmove.disk.errors import disk_error
from kvmove.disk.extents import extents, is_zero
from kvmove.disk.raw_file import RawFile, aligned_buffer
from kvmove.units import MIB

REGION = MIB
"""Part of the digest's definition: another size gives other digests."""


def disk_digest(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """The digest of the raw image at `path`, in hexadecimal.

    `progress` is told, after each region that was read, how far the reading is (bytes from the disk's start); what it
    raises ends the work and comes out here. Pages are dropped from the page cache once read.

    :raise DiskError: something could not be read; zeroes are not taken in its place.
    """
    with RawFile(path) as disk:
        return file_digest(disk, progress)


def file_digest(disk: RawFile, progress: Callable[[int], None] | None = None) -> str:
    """As `disk_digest`, of an open image."""
    digest = hashlib.sha256(disk.size.to_bytes(8, "big"))
    buffer = aligned_buffer(REGION)
    read = 0  # end of the last region that was read
    try:
        for extent in extents(disk.fileno(), 0, disk.size):
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
    except OSError as error:
        raise disk_error("look for data", disk.path, error) from error
    return digest.hexdigest()
