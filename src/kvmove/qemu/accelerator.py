"""Which accelerator this host has, and what an emulated guest needs to be moved safely.

Invariant: `kvm` is never answered on the word of the device node. `/dev/kvm` can exist and open while a guest hangs at
its first instruction (a kernel that offers paravirtual KVM only), so the CPU flags must say vmx or svm *and* a tiny
guest must have shown progress on this host since its boot.

Not done here: choosing for a VM (its definition may ask for one), and making the QEMU of a VM.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

from kvmove.units import KIB

Accelerator = Literal["kvm", "tcg"]

PROBE_SECONDS = 5.0
BINARY = "qemu-system-x86_64"

_EXIT_PORT = 0xF4
_EXIT_VALUE = 0x15
_PROGRESS = _EXIT_VALUE << 1 | 1  # what isa-debug-exit makes of the value that the guest wrote
_ROM_SIZE = 64 * KIB
_RESET_VECTOR = _ROM_SIZE - 16

_BLOCK_ALIGNMENT = 8 * KIB  # QEMU 7.2 hw/core/machine.c rounds the RAM size up to this
_FAST_PATH = 256 * KIB  # 64 pages of 4 KiB: one word of the dirty bitmap
_TAKEN_OFF = 64 * KIB


def emulated_memory(size: int) -> int:
    """The RAM size (bytes) that an emulated guest gets when `size` was asked for; at most 64 KiB less.

    QEMU before 8.2.3 and 9.0 loses guest memory writes when it migrates an emulated guest whose RAM is a multiple of
    256 KiB: include/exec/ram_addr.h clears dirty bits of whole words without telling the emulator, which then does
    not see later writes. Any other size takes the slow, right path.
    """
    rounded = aligned_memory(size)
    return rounded if rounded % _FAST_PATH else rounded - _TAKEN_OFF


def aligned_memory(size: int) -> int:
    """`size` rounded up as QEMU would, so that what we say is what the guest has (bytes)."""
    return -(-size // _BLOCK_ALIGNMENT) * _BLOCK_ALIGNMENT


def memory_is_safe(size: int, accelerator: Accelerator, qemu_version: str) -> bool:
    """Whether a guest with `size` bytes of RAM can be migrated without losing writes; see `emulated_memory`."""
    return accelerator == "kvm" or bool(aligned_memory(size) % _FAST_PATH) or _has_fix(qemu_version)


def _has_fix(qemu_version: str) -> bool:
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", qemu_version)
    if match is None:
        return False
    version = tuple(int(part or 0) for part in match.groups())
    return (8, 2, 3) <= version < (8, 3) or version >= (9, 0, 0)


def cpu_can_virtualize(cpuinfo: str) -> bool:
    """Whether the text of /proc/cpuinfo shows hardware virtualization (Intel vmx, AMD svm)."""
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    return flags is not None and bool({"vmx", "svm"} & set(flags[1].split()))


def probe_rom() -> bytes:
    """A firmware of three instructions: from the reset vector it writes a byte to the exit port, then halts."""
    code = bytes([0xB0, _EXIT_VALUE, 0xE6, _EXIT_PORT, 0xF4])  # mov al, value; out port, al; hlt
    return bytes(_RESET_VECTOR) + code + bytes(_ROM_SIZE - _RESET_VECTOR - len(code))


def guest_makes_progress(
    accelerator: Accelerator, rom: bytes, *, binary: str = BINARY, timeout: float = PROBE_SECONDS
) -> bool:
    """Run a guest whose firmware is `rom`; whether it reached the exit port within `timeout` seconds. Blocks.

    Its QEMU is killed afterwards whatever happened; the firmware's file is removed.
    """
    with tempfile.TemporaryDirectory(prefix="kvmove-probe-") as folder:
        firmware = Path(folder, "rom")
        firmware.write_bytes(rom)
        command = [
            binary, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc", "-accel", accelerator,
            "-m", "4M", "-bios", str(firmware), "-device", f"isa-debug-exit,iobase={_EXIT_PORT:#x}",
        ]  # fmt: skip
        try:
            ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return ended.returncode == _PROGRESS


def find_accelerator(cache: Path, *, binary: str = BINARY) -> Accelerator:
    """The best accelerator of this host. Blocks while it probes; the answer is kept in `cache` until the next boot."""
    if not cpu_can_virtualize(Path("/proc/cpuinfo").read_text()):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(FileNotFoundError):
        match cache.read_text().split():
            case [known_boot, "kvm" | "tcg" as known] if known_boot == boot:
                return "kvm" if known == "kvm" else "tcg"
    found: Accelerator = "kvm" if guest_makes_progress("kvm", probe_rom(), binary=binary) else "tcg"
    _write(cache, f"{boot} {found}\n")
    return found


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)
