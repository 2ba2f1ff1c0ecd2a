"""What a benchmark ran on: the machine, the versions, the day. Without it a figure cannot be compared with anything.

Deliberately not here: what else the machine did meanwhile; nothing may run beside a benchmark.
"""

import os
import platform
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import kvmove
from kvmove.agent.host_facts import parse_meminfo, qemu_version
from kvmove.lab.commands import run
from kvmove.model.strict import Strict
from kvmove.qemu.accelerator import Accelerator, find_accelerator


class Conditions(Strict):
    """`day` is the day of the start in UTC, `memory` in bytes; `full` whether it was the run with larger disks.

    `findings` says in sentences which side did not move its guest, and so has no figures.
    """

    day: str
    processor: str
    cores: int
    memory: int
    kernel: str
    accelerator: Accelerator
    kvmove: str
    qemu: str
    libvirt: str
    full: bool
    findings: tuple[str, ...] = ()


def conditions_here(full: bool) -> Conditions:
    """This machine, now. Blocks for some seconds: whether hardware virtualization works is tried.

    :raise CheckFailed: QEMU is not installed.
    :raise LabFailed: libvirt is not.
    """
    with tempfile.TemporaryDirectory(prefix="kvmove-bench-") as folder:
        accelerator = find_accelerator(Path(folder, "accelerator"))
    return Conditions(
        day=datetime.now(UTC).date().isoformat(), processor=processor_name(Path("/proc/cpuinfo").read_text()),
        cores=len(os.sched_getaffinity(0)), memory=parse_meminfo(Path("/proc/meminfo").read_text())[0],
        kernel=platform.release(), accelerator=accelerator, kvmove=kvmove.__version__, qemu=qemu_version(),
        libvirt=run(["libvirtd", "--version"]).split()[-1], full=full,
    )  # fmt: skip


def processor_name(cpuinfo: str) -> str:
    """The name of the first processor in the text of /proc/cpuinfo."""
    name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return name[1].strip() if name else platform.machine()
