"""How much of a guest's memory has pages, as /proc tells it."""

from kvmove.qemu.guest_load import memory_used
from kvmove.units import KIB, MIB

SMAPS = """\
55d0-55e0 r-xp 00000000 fe:01 1 /usr/bin/qemu
Size:               4096 kB
KernelPageSize:        4 kB
Rss:                4096 kB
Swap:                  0 kB
VmFlags: rd ex mr
7f00-7f10 rw-p 00000000 00:00 0
Size:             262080 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:              100000 kB
Pss:              100000 kB
Swap:               2400 kB
SwapPss:               0 kB
VmFlags: rd wr mr
7f20-7f30 rw-p 00000000 00:00 0
Size:            1048576 kB
KernelPageSize:        4 kB
Rss:               60000 kB
Swap:                  0 kB
VmFlags: rd wr
"""


def test_the_guests_ram_is_the_mapping_of_its_size_and_what_was_swapped_out_is_used_too() -> None:
    assert memory_used(SMAPS, 262080 * KIB) == 102400 * KIB


def test_another_mapping_is_not_taken_for_it() -> None:
    assert memory_used(SMAPS, 256 * MIB) is None
    assert memory_used("", 256 * MIB) is None
