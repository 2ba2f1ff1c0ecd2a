"""Checks on a real lab of what the hosts are: h2 gets another QEMU, another kvmove, a wrong clock or little memory.

A lab's host has mounts of its own, so another file can be put over one of the machine's for it alone.
"""

import inspect
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

import kvmove
from kvmove.lab.lab import Lab
from kvmove.lab.spec import LabSpec
from kvmove.qemu.accelerator import BINARY
from tests.support.checked_vms import codes, define, restart_agent, shell
from tests.support.labs import SMALL, lab_name, tidy_lab

pytestmark = [pytest.mark.lab, pytest.mark.full, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

VM = "checked"
QEMU_SAYS = """#!/bin/sh
[ "$*" = --version ] && exec echo "QEMU emulator version {version}"
exec unshare --mount sh -c 'umount -l {path}; exec {path} "$@"' sh "$@"
"""
"""Lies about its version, and is the machine's own QEMU in all else."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab() -> AsyncIterator[Lab]:
    async with tidy_lab(LabSpec(name=lab_name("findhost"), nics=(0,), datastore=SMALL)) as made:
        await define(made, VM)
        assert await codes(made, VM) == []
        yield made


@asynccontextmanager
async def instead_of(lab: Lab, path: str, file: Path) -> AsyncIterator[None]:
    """h2 finds `file` at `path`, which is one of the machine's, and its agent has begun anew with it."""
    h2 = lab.host("h2")
    await shell(h2, f"mount --bind {file} {path}")
    try:
        await restart_agent(lab, VM)
        yield
    finally:
        await shell(h2, f"umount -l {path}")


async def as_before(lab: Lab) -> None:
    await restart_agent(lab, VM)
    assert await codes(lab, VM) == []


async def test_another_qemu_on_the_other_host_is_found(lab: Lab, tmp_path: Path) -> None:
    path, binary = (await lab.host("h2").exec(["which", BINARY])).strip(), tmp_path / "binary"
    await lab.manager.start_vm(VM)
    for version, code in (("6.2.0", "qemu-older"), ("99.0.0", "qemu-differs")):
        binary.write_text(QEMU_SAYS.format(version=version, path=path))
        binary.chmod(0o755)
        async with instead_of(lab, path, binary):
            assert await codes(lab, VM) == [code]
    await as_before(lab)
    await lab.manager.kill_vm(VM)


async def test_a_qemu_without_our_machine_or_cpu_is_found(lab: Lab) -> None:
    """Where h2 keeps what its QEMU offers: no QEMU that lacks them is at hand."""
    kept = lab.folders.host("h2") / "agent" / "qemu-facts.json"
    text = kept.read_text()
    facts = json.loads(text)
    facts["facts"]["machines"] = ["pc-q35-2.4"]
    kept.write_text(json.dumps(facts))
    assert await codes(lab, VM) == ["machine-type-missing"]
    facts = json.loads(text)
    for cpu in facts["facts"]["cpus"]:
        cpu |= {"known": False, "features": [], "missing": []}
    kept.write_text(json.dumps(facts))
    assert await codes(lab, VM) == ["cpu-model-missing"]
    kept.write_text(text)
    assert await codes(lab, VM) == []


async def test_too_little_memory_on_the_other_host_is_found(lab: Lab, tmp_path: Path) -> None:
    little = tmp_path / "meminfo"
    little.write_text("MemTotal: 65536 kB\nMemFree: 32768 kB\nMemAvailable: 32768 kB\n")
    await lab.manager.start_vm(VM)
    await shell(lab.host("h2"), f"mount --bind {little} /proc/meminfo")
    assert await codes(lab, VM) == ["memory-short"]
    await shell(lab.host("h2"), "umount -l /proc/meminfo")
    assert await codes(lab, VM) == []
    await lab.manager.kill_vm(VM)


WRONG_CLOCK = "import time\n_right = time.time\ntime.time = lambda: _right() + 30\n"


async def test_another_kvmove_and_a_wrong_clock_are_found(lab: Lab, tmp_path: Path) -> None:
    """What every module of kvmove imports first is another file on h2."""
    path, text = str(kvmove.__file__), inspect.getsource(kvmove)
    for change, expected in (
        ('__version__ = "7.0.0"\n', ["kvmove-version"]),
        ('__version__ = "0.1.999"\n' + WRONG_CLOCK, ["kvmove-version-differs", "clocks-differ"]),
    ):
        other = tmp_path / "kvmove.py"
        other.write_text(f"{text}\n{change}")
        os.utime(other, (0, 0))  # so that nobody takes what Python compiled of the one for the other's
        async with instead_of(lab, path, other):
            assert await codes(lab, VM) == expected
    await as_before(lab)
