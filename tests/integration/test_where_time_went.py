"""What a move waited for, and how few bytes it sends: the name of the bottleneck, compression, zeroes and holes.

Each bottleneck is made: a slow NIC, a slow disk, a cap. Real hosts of a lab, a real guest whose ledger is judged.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kvmove.lab import ledger_vm
from kvmove.lab.guest.image import build
from kvmove.lab.guest.verifier import Expect, Verdict, verify
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.preparation import recorder_folder
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.model.move import MoveReport
from kvmove.model.time_spent import Limit
from kvmove.units import GIB, MIB
from tests.support.labs import lab_name, tidy_lab
from tests.support.moving_guest import GUEST, World
from tests.support.slow_disk import slow_writes

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

SLOW_NIC = 14_000_000
SLOW_DISK = 6 * MIB
CAP = 8 * MIB

TEXT_AT, TEXT = 16 * MIB, 48 * MIB
"""Where the disk holds words, beyond the guest's own data; how many bytes of them."""

WORDS = b"".join(b"%09d: words on a disk, which holds many of them.\n" % number for number in range(1024))
assert len(WORDS) % 512 == 0

QUIET = LedgerVm(name="timed", memory=160 * MIB, disk=64 * MIB, data=8 * MIB, ram_mib=8, ram_rate=50, rate=40)
EMPTY = LedgerVm(name="empty", memory=256 * MIB, disk=512 * MIB, data=0, rate=5, ram_mib=0)


@asynccontextmanager
async def world(vm: LedgerVm, purpose: str, *, nic: int = 0, write: bytes = b"") -> AsyncIterator[World]:
    """The guest on h1; `write` is what its disk holds at TEXT_AT, again and again, before the guest starts."""
    image = build(GUEST)
    spec = LabSpec(name=lab_name(purpose), hosts=("h1", "h2"), nics=(nic,), datastore=DatastoreSpec(size=GIB))
    async with tidy_lab(spec) as lab:
        await ledger_vm.define(lab, vm, image, "h1")
        _put(vm.disk_file(lab.host("h1")), write)
        await ledger_vm.start(lab, vm)
        yield World(lab, vm, image)


def _put(disk: Path, what: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(TEXT_AT)
        file.write(what * (TEXT // len(what)) if what else b"")
        os.fsync(file.fileno())


async def judged_but_for_words(there: World, host: str) -> Verdict:
    """End the guest; the words that it has not overwritten are taken from its disk, and the rest is judged."""
    await there.lab.manager.kill_vm(str(there.vm.uuid))
    disk = there.vm.disk_file(there.lab.host(host))
    with disk.open("r+b") as file:
        for at in range(TEXT_AT, TEXT_AT + TEXT // len(WORDS) * len(WORDS), 512):
            place = (at - TEXT_AT) % len(WORDS)
            if os.pread(file.fileno(), 512, at) == WORDS[place : place + 512]:
                os.pwrite(file.fileno(), bytes(512), at)
    expect = Expect(vm=there.vm.number, disk=0, prefill=there.vm.prefill)
    return verify(disk, recorder_folder(there.lab.folders), there.image.verify_tool, expect)


async def moved(there: World, host: str, **options: object) -> MoveReport:
    report = (await there.move(host, **options)).task.report
    assert report is not None
    return report


def limit(report: MoveReport) -> Limit | None:
    return report.bottleneck.limit if report.bottleneck is not None else None


@pytest.mark.full
async def test_the_bottleneck_is_named_and_compression_makes_a_slow_network_carry_more() -> None:
    async with world(QUIET, "btl", nic=SLOW_NIC, write=WORDS) as there:
        plain = await moved(there, "h2", compress="off")
        assert limit(plain) is Limit.NETWORK
        assert plain.where_time_went is not None
        assert plain.where_time_went.destination is not None
        assert plain.compressed is not None
        assert plain.compressed.before == 0
        assert "the operator" in plain.compressed.why

        small = await moved(there, "h1", compress="on", verify=True)
        assert small.compressed is not None
        assert small.compressed.before > TEXT / 2
        assert small.compressed.ratio < 0.3
        assert small.disks[0].source_digest == small.disks[0].destination_digest != ""
        saved = sum(plain.bytes_per_nic.values()) - sum(small.bytes_per_nic.values())
        assert saved > TEXT / 2
        verdict = await judged_but_for_words(there, "h1")
        assert verdict.checked > 0
        assert verdict.ok, verdict


@pytest.mark.full
async def test_a_cap_and_a_slow_disk_are_named_and_random_data_is_not_compressed() -> None:
    noisy = LedgerVm(name="noisy", memory=160 * MIB, disk=160 * MIB, data=96 * MIB, ram_mib=8, ram_rate=50, rate=40)
    async with world(noisy, "btf") as there:
        report = await moved(there, "h2", bandwidth=CAP)
        assert limit(report) is Limit.CAP
        assert report.compressed is not None
        assert not report.compressed.on
        with slow_writes(there.lab, there.lab.host("h1"), SLOW_DISK):
            report = await moved(there, "h1")
        assert limit(report) is Limit.DESTINATION_DISK, report.where_time_went
        await there.judge("h1")


@pytest.mark.full
async def test_zeroes_and_holes_of_disk_and_memory_cost_next_to_nothing() -> None:
    async with world(EMPTY, "btz", write=bytes(MIB)) as there:
        report = await moved(there, "h2", compress="off", verify=True)
        assert report.disks[0].source_digest == report.disks[0].destination_digest != ""
        disks = sum(report.bytes_per_nic.values()) - report.memory_bytes
        assert disks < 4 * MIB, "48 MiB of stored zeroes and 464 MiB of holes"
        assert report.memory_bytes < EMPTY.memory / 2, "QEMU sends a page of zeroes as a few bytes"
