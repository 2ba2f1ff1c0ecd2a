"""Whether a QEMU holds a lock on an image file."""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux


def _whole_file(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def is_locked(path: Path) -> bool:
    """Whether another open file holds any lock on `path`; QEMU's are read locks on single bytes."""
    with path.open("rb") as file:
        answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _whole_file(fcntl.F_WRLCK))
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """`path` locked as by a program that lets nobody write."""
    with path.open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_RDLCK))
        yield
