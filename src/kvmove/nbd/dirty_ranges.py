"""What of a disk a dirty bitmap of QEMU calls written, as its export tells. Blocking, for threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kvmove.nbd.client import NbdClient

_DIRTY = 1
"""The flag in a `qemu:dirty-bitmap:` context."""


def dirty_ranges(socket: Path, export: str, bitmap: str) -> list[tuple[int, int]]:
    """(offset, length) of each run that was written, in order; bytes.

    :raise NbdError: it cannot be told: take all of the disk for written.
    """
    context = f"qemu:dirty-bitmap:{bitmap}"
    client = NbdClient(socket, export, contexts=(context,))
    try:
        return list(_read(client, context))
    finally:
        client.close()


def _read(client: NbdClient, context: str) -> Iterator[tuple[int, int]]:
    at = 0
    while at < client.size:
        for length, flags in client.block_status(at, client.size - at)[context]:
            if flags & _DIRTY:
                yield at, min(length, client.size - at)
            at += length
            if at >= client.size:
                return
