"""How much of its RAM a guest has touched: what a move has to send of it at least, but for pages of zeroes."""

import re
from pathlib import Path

from kvmove.errors import CheckFailed
from kvmove.units import KIB, MIB, format_size

_MAPPING = re.compile(r"^Size: +(\d+) kB$.*?^Rss: +(\d+) kB$", re.MULTILINE | re.DOTALL)

ROUNDED = MIB
"""By how much the RAM that a guest really has may differ from what was asked for."""


def touched_memory(pid: int, ram: int) -> int:
    """Bytes that are there of the mapping of QEMU process `pid` that holds its guest's `ram` bytes.

    :raise CheckFailed: there is no such process, or no mapping of that size.
    """
    try:
        smaps = Path(f"/proc/{pid}/smaps").read_text()
    except OSError as error:
        raise CheckFailed(f"the memory of process {pid} cannot be looked at: {error.strerror}") from error
    return resident_of(smaps, ram)


def resident_of(smaps: str, ram: int) -> int:
    """What is there (Rss) of the mapping of about `ram` bytes, from the text of /proc/PID/smaps; bytes.

    By size and not the largest: the code buffer of QEMU's emulation is larger than a small guest. Of several of
    that size the one that is used: QEMU may reserve as much again beside the RAM, and never touch it.

    :raise CheckFailed: there is no such mapping.
    """
    sizes = ((int(size) * KIB, int(resident) * KIB) for size, resident in _MAPPING.findall(smaps))
    found = [resident for size, resident in sizes if abs(size - ram) <= ROUNDED]
    if not found:
        raise CheckFailed(f"no mapping of QEMU is as large as its guest's RAM of {format_size(ram)}")
    return max(found)
