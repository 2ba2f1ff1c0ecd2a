"""Thin stays thin: a disk that has moved takes no more space than before, whatever image it becomes."""

from pathlib import Path

import pytest

from kvmove.lab.guest.options import Mode
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import DISK, LedgerVm
from kvmove.lab.moving import follow
from kvmove.lab.spec import LOCAL
from kvmove.units import GIB, MIB
from tests.support.audience import Quiet
from tests.support.eventually import eventually
from tests.support.moving_guest import World, world

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

VM = LedgerVm(
    name="slim", memory=160 * MIB, disk=GIB, data=128 * MIB, ram_mib=16, mode=Mode.RANDOM4K
)  # fmt: skip

SCATTERED = 12 * MIB
"""What the guest writes in blocks of 4 KiB before its disk moves: some 3000 of them, far from each other."""


def image(host: LabHost, form: str) -> Path:
    return host.datastore_called(LOCAL) / str(VM.uuid) / f"{DISK}.{form}"


def allocated(file: Path) -> int:
    return file.stat().st_blocks * 512


async def moved_to(there: World, host: str, form: str) -> int:
    """Move it as it is, and tell what it takes there."""
    await follow(there.lab, await there.lab.manager.start_move(there.request(host, format=form)), Quiet())
    return allocated(image(there.lab.host(host), form))


@pytest.mark.full
async def test_scattered_data_takes_no_more_space_in_any_image() -> None:
    async with world(VM, "thn") as there:
        raw = image(there.lab.host("h1"), "raw")
        await eventually(lambda: allocated(raw) > VM.data + SCATTERED)
        await there.lab.manager.pause_vm(VM.name)
        first = allocated(raw)
        for host, form in (("h2", "raw"), ("h1", "qcow2"), ("h2", "qcow2"), ("h1", "raw")):
            there_now = await moved_to(there, host, form)
            assert there_now <= first * 1.01, (form, first, there_now)
        await there.lab.manager.resume_vm(VM.name)
        await there.runs_on(there.lab.host("h1"))
        await there.judge("h1")
