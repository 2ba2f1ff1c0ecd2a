"""Clearing the marks that QEMU sets on all memory of an emulated guest at its start, before the guest runs.

QEMU marks every page of new RAM dirty. The first round of a migration goes over the marks while it holds QEMU's lock,
and under emulation each marked page costs a walk over the vCPU's whole TLB (softmmu/physmem.c,
tlb_reset_dirty_range_all): 0.1 to 0.6 s in which a running guest of 512 MiB gets no I/O. So the marks are cleared while
nobody waits: a migration to nowhere is begun and cancelled before the guest's first instruction. What is left for the
first move is what the guest has written since.

Guests on KVM do not need it: their marks are cleared a word at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from kvmove.errors import KvmoveError
from kvmove.qemu.features import find_features
from kvmove.qemu.migration import Migration, MigrationParameters
from kvmove.qemu.monitor import Monitor

SLOW = 64 * 1024
"""Bytes/s: too little to get anywhere."""

LONGEST_SECONDS = 5.0
_LOOK_SECONDS = 0.005


async def clear_dirty_marks(monitor: Monitor, socket: Path) -> None:
    """For an emulated guest that was started and stands still; `socket` is a free path.

    :raise KvmoveError: it did not work; the guest must not be let run before the QEMU was ended.
    """
    server = await asyncio.start_unix_server(_swallow, socket)
    migration = Migration(monitor, await find_features(monitor))
    try:
        await migration.configure_source(0, MigrationParameters(max_bandwidth=SLOW, downtime_limit_ms=1))
        await migration.migrate(f"unix:{socket}")
        async with asyncio.timeout(LONGEST_SECONDS):
            while True:
                if (await migration.info()).rounds:
                    break
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError as error:
        raise KvmoveError("QEMU did not begin to look at its memory") from error
    finally:
        await migration.cancel()
        server.close()
        await asyncio.to_thread(socket.unlink, missing_ok=True)


async def _swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take what comes, until QEMU hangs up."""
    with contextlib.suppress(OSError):
        while await reader.read(64 * 1024):
            pass
    writer.close()
