"""What a disk or its file system refused."""

import errno
import os

from kvmove.errors import MoveFailed

_HINTS = {
    errno.EIO: "The storage below reports an error; see the host's kernel log.",
    errno.ENOSPC: "Free space on the datastore, or choose another.",
    errno.EDQUOT: "Raise the quota on the datastore, or choose another.",
    errno.ELOOP: "A symbolic link lies where a disk should; remove it.",
    errno.ENOTDIR: "A link or a file lies where a folder should; remove it.",
}


class DiskError(MoveFailed):
    """A disk could not be read or written. `number` is the errno, 0 when the data was short. Sizes in bytes."""

    code, title = "DISK_ERROR", "The disk failed"

    def __init__(self, detail: str, number: int = 0, *, hint: str = "") -> None:
        super().__init__(detail, hint=hint or _HINTS.get(number, ""))
        self.number = number


def disk_error(what: str, path: object, error: OSError) -> DiskError:
    """`what` (read 4096 bytes at 0) failed on `path` with `error`."""
    number = error.errno or 0
    return DiskError(f"{path}: cannot {what}: {os.strerror(number)}", number)
