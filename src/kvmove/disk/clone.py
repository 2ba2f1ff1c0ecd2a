"""A copy of a file that shares its blocks until one of the two is written: a reflink."""

import errno
import fcntl
import os
from pathlib import Path

from kvmove.disk.errors import disk_error

_FICLONE = 0x40049409
"""ioctl_ficlonerange(2): _IOW(0x94, 9, int)."""

REFUSALS = (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EXDEV, errno.EINVAL)
"""How a file system says that it cannot share blocks, or not between these two files: something else may."""


def clone(source: Path, target: Path) -> bool:
    """Make `target` a reflink of `source`, whose dirty pages are included. False when the file system cannot.

    After False or an error there is no `target`. It is not durable before it and its folder are synced.

    :raise DiskError: `target` exists, or the storage failed.
    """
    try:
        source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise disk_error("open it", source, error) from error
    try:
        return _clone_to(source_fd, target)
    except OSError as error:
        raise disk_error(f"make it a clone of {source}", target, error) from error
    finally:
        os.close(source_fd)


def _clone_to(source_fd: int, target: Path) -> bool:
    target_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    except OSError as error:
        target.unlink()
        if error.errno in REFUSALS:
            return False
        raise
    finally:
        os.close(target_fd)
    return True
