"""kvmove beside libvirt: the same guest, disk, hosts and NICs, one after the other in one lab.

Absolute figures of this kind of bench are not stable from run to run (see docs/lab.md): quote the ratios of one run.
Writes, gaps and bytes are measured outside of both contestants, in the same way; each states its own downtime.
"""

import asyncio
from pathlib import Path

from kvmove.lab import observation, preparation
from kvmove.lab.contestants import SYNCHRONOUS, Contestants, Ran
from kvmove.lab.guest.image import build
from kvmove.lab.guest.recorder_log import RecorderLog
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.moving import Audience
from kvmove.lab.results import CompareResult, ContestantResult
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.units import GIB, MIB

COMPARE_LAB = LabSpec(datastore=DatastoreSpec(kind="folder", size=16 * GIB))
"""Folders of this machine: a file system in a loop device copies every byte once more, on the two cores that the guest
and both contestants share."""

SETTLE = 5.0
LIBVIRT_SECONDS = 400.0


def contender(name: str, number: int) -> LedgerVm:
    """The guest that every contestant moves: 512 MiB of memory, a disk of 4 GiB that holds 2 GiB."""
    return LedgerVm(name=name, number=number, memory=512 * MIB, disk=4 * GIB, data=2 * GIB)


async def run_compare(guest_folder: Path, audience: Audience, *, encrypt: bool) -> CompareResult:
    """Let libvirt move the guest over one NIC, then kvmove over one, then kvmove over two.

    :raise KvmoveError: the lab could not be built, or a move did not succeed.
    """
    image = await asyncio.to_thread(build, guest_folder)
    async with Lab.passing("compare", COMPARE_LAB) as lab:
        here = Contestants(lab, image, audience, SETTLE)
        guests = [contender("libvirt", 1), contender("one-nic", 2), contender("two-nics", 3)]
        libvirt = await here.libvirt(guests[0], SYNCHRONOUS, LIBVIRT_SECONDS)
        one = await here.kvmove(guests[1], ("mig0",), encrypt=encrypt)
        two = await here.kvmove(guests[2], ("mig0", "mig1"), encrypt=encrypt)
        log = RecorderLog(preparation.recorder_folder(lab.folders))
        found = [_result(log, vm, ran) for vm, ran in zip(guests, (libvirt, one, two), strict=True)]
    return CompareResult(kvmove=found[1], kvmove_two_nics=found[2], libvirt_sync=found[0])


def _result(log: RecorderLog, vm: LedgerVm, ran: Ran) -> ContestantResult:
    seen = observation.guest_figures(log, vm.number, ran.at)
    return ContestantResult(
        seconds=round((ran.at.ended - ran.at.asked) / 1e9, 2),
        writes_per_second=round(seen.writes_copying, 1),
        longest_gap_ms=seen.gap_copying_ms,
        downtime_ms=ran.stated_downtime_ms,
        bytes_sent=ran.sent,
        allocated_bytes=ran.allocated,
    )
