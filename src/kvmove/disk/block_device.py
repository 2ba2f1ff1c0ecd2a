"""Block devices as the kernel sees them: size, block size, and whether anything on this host uses one.

A path may be a link (`/dev/vg0/kv1`); two paths that lead to one device have the same `number`. Reading facts opens
the device for reading only, which does not wake udev.
"""

import array
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import NamedTuple

_BLKGETSIZE64 = 0x80081272
"""linux/fs.h: _IOR(0x12, 114, size_t)."""

_BLKSSZGET = 0x1268
"""linux/fs.h: _IO(0x12, 104); the logical block size, which direct reads and writes are multiples of."""


class BlockDevice(NamedTuple):
    """`size` and `block` (the logical block size) in bytes; `number` is the kernel's for this device."""

    size: int
    block: int
    number: int


def facts(fd: int) -> BlockDevice | None:
    """What the open file `fd` is as a block device; None when it is none.

    :raise OSError: the device does not answer.
    """
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode):
        return None
    size, block = array.array("Q", [0]), array.array("i", [0])
    fcntl.ioctl(fd, _BLKGETSIZE64, size)
    fcntl.ioctl(fd, _BLKSSZGET, block)
    return BlockDevice(size[0], block[0], status.st_rdev)


def look(path: Path, *, exclusively: bool = False) -> BlockDevice | None:
    """The block device at `path`; None when there is none. `exclusively`: None too when this host has it mounted, as
    swap, below another device, or open for one user alone.

    :raise OSError: the device does not answer.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        if not stat.S_ISBLK(path.stat().st_mode):
            return None  # opening anything else may have an effect of its own, or wait
        fd = os.open(path, flags | (os.O_EXCL if exclusively else 0))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENOMEDIUM, errno.EBUSY):
            return None
        raise
    try:
        return facts(fd)
    finally:
        os.close(fd)
