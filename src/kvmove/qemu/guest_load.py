"""How busy a guest is, for a forecast: memory it uses and changes, writes to its disks. Looks, and changes nothing.

Facts relied on (QEMU 7.2, each held by a test): `calc-dirty-rate` by page sampling hashes some pages of the guest,
waits and hashes them again, in a thread of its own; it leaves the dirty log alone, so it does no harm under TCG or
beside a mirror. RAM blocks below 128 MiB are left out (migration/dirtyrate.c, MIN_RAMBLOCK_SIZE), so of a small guest
it would say 0 whatever that does: it is not asked there. The answer is whole MiB/s.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import NamedTuple

from kvmove.errors import QemuError, Unreachable
from kvmove.qemu.monitor import Monitor
from kvmove.units import KIB, MIB

SAMPLE_SECONDS = 1
LEAST_SAMPLED = 128 * MIB
_SAMPLES_PER_GIB = 4096
_LATE_SECONDS = 1.0
_LOOK_SECONDS = 0.05
_MEASURED = "measured"
_MAPPING = re.compile(
    r"^[0-9a-f]+-[0-9a-f]+ rw.*\nSize: +(\d+) kB\n(?:.*\n)*?Rss: +(\d+) kB\n(?:.*\n)*?Swap: +(\d+) kB$", re.MULTILINE
)


class Written(NamedTuple):
    """What a guest has written to its disks since its QEMU started: bytes and requests."""

    size: int
    requests: int


async def memory_size(monitor: Monitor) -> int:
    """The guest's RAM in bytes. :raise Unreachable: QEMU does not answer."""
    answer = await monitor.execute("query-memory-size-summary")
    return int(answer["base-memory"])


async def dirty_rate(monitor: Monitor) -> int:
    """How much of its memory the guest changes, bytes/s, seen for a second. The guest must run, and not be migrated.

    :raise QemuError: QEMU refused, or measures for somebody else. :raise Unreachable: no answer in time.
    """
    await monitor.execute("calc-dirty-rate", {"calc-time": SAMPLE_SECONDS, "sample-pages": _SAMPLES_PER_GIB})
    await asyncio.sleep(SAMPLE_SECONDS)
    deadline = asyncio.get_running_loop().time() + _LATE_SECONDS
    while (answer := await monitor.execute("query-dirty-rate"))["status"] != _MEASURED:
        if asyncio.get_running_loop().time() > deadline:
            raise Unreachable("QEMU did not measure the guest's dirty rate in time")
        await asyncio.sleep(_LOOK_SECONDS)
    if "dirty-rate" not in answer:
        raise QemuError("query-dirty-rate", "GenericError", "QEMU measured no dirty rate")
    return int(answer["dirty-rate"]) * MIB


async def written(monitor: Monitor) -> Written:
    """See `Written`; two of them tell how busy the disks are. :raise Unreachable: QEMU does not answer."""
    stats = [it["stats"] for it in await monitor.execute("query-blockstats") if it.get("qdev")]
    return Written(sum(it["wr_bytes"] for it in stats), sum(it["wr_operations"] for it in stats))


def memory_used(smaps: str, size: int) -> int | None:
    """How many bytes of a guest's RAM of `size` bytes have pages, by the text of /proc/PID/smaps of its QEMU; the
    others were never touched, and cost a migration next to nothing. None: no mapping is of that size."""
    found = [(int(rss) + int(swap)) * KIB for kib, rss, swap in _MAPPING.findall(smaps) if int(kib) * KIB == size]
    return max(found, default=None)


def read_smaps(pid: int) -> str:
    """Blocking: the kernel walks all pages of the process. :raise OSError: it has ended."""
    return Path(f"/proc/{pid}/smaps").read_text()
