"""How fast a folder's storage takes data, and whether two folders share blocks: tried with a file that has no name.

Bounded: at most PROBE_MOST bytes or about PROBE_SECONDS. The file is of O_TMPFILE: nothing is ever left of it, not even
by a crash. Blocking; meant for a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from kvmove.disk.clone import REFUSALS
from kvmove.disk.offload import reflink
from kvmove.units import KIB, MIB

PROBE_MOST = 64 * MIB
PROBE_SECONDS = 0.35
LEAST_FREE = 4 * PROBE_MOST
"""Where less is free nothing is tried: a guest that writes in that moment must never find the storage full."""

_PIECE = MIB
_PIECES = 16
"""Written between two syncs, about as a move does."""

_BLOCK = 64 * KIB


def write_rate(folder: Path) -> int:
    """Bytes/s, made durable at the end, of bytes that do not compress.

    :raise OSError: the storage is nearly full, failed, or knows no files without names.
    """
    space = os.statvfs(folder)
    if space.f_bavail * space.f_frsize < LEAST_FREE:
        raise OSError(errno.ENOSPC, "too little space is free to try it")
    piece = secrets.token_bytes(_PIECE)
    with _nameless(folder) as file:
        began = time.monotonic()
        done = 0
        while done < PROBE_MOST and time.monotonic() - began < PROBE_SECONDS / 2:
            for _ in range(_PIECES):
                done += os.pwrite(file, piece, done)
            os.fdatasync(file)
        return round(done / max(time.monotonic() - began, 0.001))


def shares_blocks(source: Path, target: Path) -> bool:
    """Whether a file in `target` can share the blocks of one in `source`.

    :raise OSError: as `write_rate`.
    """
    with _nameless(source) as one, _nameless(target) as other:
        os.pwrite(one, secrets.token_bytes(_BLOCK), 0)
        os.ftruncate(other, _BLOCK)
        try:
            reflink(one, other, 0, _BLOCK)
        except OSError as error:
            if error.errno in REFUSALS:
                return False
            raise
        return True


@contextlib.contextmanager
def _nameless(folder: Path) -> Iterator[int]:
    file = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)
