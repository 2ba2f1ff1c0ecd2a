"""How much of its RAM a guest has touched: what a move has to send of it at least, but for pages of zeroes."""

import re
from pathlib import Path

from kvmove.errors import CheckFailed
from kvmove.units import KIB

_MAPPING = re.compile(r"^Size: +(\d+) kB$.*?^Rss: +(\d+) kB$", re.MULTILINE | re.DOTALL)


def touched_memory(pid: int) -> int:
    """Bytes of the largest mapping of QEMU process `pid`, its guest's RAM, that are there.

    :raise CheckFailed: there is no such process.
    """
    try:
        return largest_mapping(Path(f"/proc/{pid}/smaps").read_text())
    except OSError as error:
        raise CheckFailed(f"the memory of process {pid} cannot be looked at: {error.strerror}") from error


def largest_mapping(smaps: str) -> int:
    """What is there (Rss) of the largest mapping, from the text of /proc/PID/smaps; bytes."""
    found = ((int(size), int(resident)) for size, resident in _MAPPING.findall(smaps))
    return max(found, default=(0, 0))[1] * KIB
