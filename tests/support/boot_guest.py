"""A guest in one boot sector: it counts, dirties memory and writes the count to its disk, as fast as it can.

It needs no kernel, starts within a second under TCG and uses the BIOS, so its writes take the same way through
virtio-blk as any guest's. One write at a time, 512 bytes, round and round over 1,024 sectors.

Assembled with `as --32`, `ld -m elf_i386 -Ttext 0x7c00 --oformat binary`:

    .code16                                loop: incl counter                 # the count, in memory only
    cli                                          movl counter,%eax
    xorw %ax,%ax                                 movl %eax,%ebx               # one page of 128 between 64 and 576 KiB
    movw %ax,%ds                                 andl $127,%ebx
    movw %ax,%ss                                 shll $8,%ebx
    movw $0x7c00,%sp                             addl $0x1000,%ebx
    sti                                          movw %bx,%es
    movb %dl,drive                               movl %eax,%es:0
                                                 andl $1023,%eax              # sector 64 + count mod 1,024
    .align 4                                     addl $64,%eax
    drive: .byte 0,0,0,0                         movl %eax,lba
    dap: .byte 16,0                              movb drive,%dl
     .word 1, 0x8000, 0                          movw $dap,%si
    lba: .long 0,0                               movw $0x4300,%ax             # extended write
    .set counter, 0x8000                         int $0x13
                                                 jmp loop
"""

import os
from pathlib import Path

SECTOR = 512
FIRST_SECTOR = 64
SECTORS = 1024
DISK_SIZE = 8 << 20

_CODE = bytes.fromhex(
    "fa31c08ed88ed0bc007cfb8816507c66ff06008066a100806689c36683e3"
    "7f66c1e3086681c3001000008ec32666a300006625ff0300006683c04066"
    "a35c7c8a16507cbe547cb80043cd13ebc28d740000000000100001000080"
    "00000000000000000000"
)

# mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt: SLP_EN with type 0 in q35's PM1a control register is "soft off"
_POWER_OFF = bytes.fromhex("ba0406b80020eff4")


def write_boot_disk(path: Path, size: int = DISK_SIZE, *, powers_off: bool = False) -> Path:
    """Make a disk that boots this guest, or one that powers off at once; one that is there gets another."""
    path.touch()
    with path.open("r+b") as disk:
        disk.write((_POWER_OFF if powers_off else _CODE).ljust(SECTOR - 2, b"\0") + b"\x55\xaa")
        os.fsync(disk.fileno())  # QEMU reads past the page cache
    os.truncate(path, size)
    return path


def highest_count(path: Path) -> int:
    """The newest count on a disk; 0 when the guest has not written yet."""
    data = path.read_bytes()
    offsets = range(FIRST_SECTOR * SECTOR, (FIRST_SECTOR + SECTORS) * SECTOR, SECTOR)
    return max(int.from_bytes(data[offset : offset + 4], "little") for offset in offsets)
