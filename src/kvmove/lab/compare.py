"""kvmove beside libvirt: the same guest, disk, hosts and NICs, one after the other in one lab.

Absolute figures of this kind of bench are not stable from run to run (see docs/lab.md): quote the ratios of one run.
Writes, gaps and bytes are measured outside of both contestants, in the same way; each states its own downtime.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from kvmove.lab import addresses, ledger_vm, observation, preparation
from kvmove.lab.commands import LabFailed
from kvmove.lab.guest.image import GuestImage, build
from kvmove.lab.guest.recorder_log import RecorderLog, now_ns
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.libvirt_peer import LibvirtPeer, PeerGuest
from kvmove.lab.moving import Audience, watched_move
from kvmove.lab.observation import Instants
from kvmove.lab.results import CompareResult, ContestantResult
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.model.move import MoveReport, MoveRequest
from kvmove.units import GIB, MIB, format_duration

COMPARE_LAB = LabSpec(datastore=DatastoreSpec(kind="folder", size=16 * GIB))
"""Folders of this machine: a file system in a loop device copies every byte once more, on the two cores that the guest
and both contestants share."""

SETTLE = 5.0
LIBVIRT_TIMEOUT = 400.0
LIBVIRT_ATTEMPTS = 3
SYNCHRONOUS = ("--copy-storage-synchronous-writes", "--auto-converge")


def contender(name: str, number: int) -> LedgerVm:
    """The guest that every contestant moves: 512 MiB of memory, a disk of 4 GiB that holds 2 GiB."""
    return LedgerVm(name=name, number=number, memory=512 * MIB, disk=4 * GIB, data=2 * GIB)


async def run_compare(guest_folder: Path, audience: Audience, *, encrypt: bool) -> CompareResult:
    """Let libvirt move the guest over one NIC, then kvmove over one, then kvmove over two.

    :raise KvmoveError: the lab could not be built, or a move did not succeed.
    """
    image = await asyncio.to_thread(build, guest_folder)
    async with Lab.passing("compare", COMPARE_LAB) as lab:
        bench = Bench(lab, image, audience, encrypt=encrypt)
        libvirt = await bench.libvirt_until_its_guest_lives()
        one = await bench.kvmove(contender("one-nic", 2), ("mig0",))
        two = await bench.kvmove(contender("two-nics", 3), ("mig0", "mig1"))
    return CompareResult(kvmove=one, kvmove_two_nics=two, libvirt_sync=libvirt)


class Bench:
    """The lab in which the contestants move their guests from the first host to the second."""

    def __init__(self, lab: Lab, image: GuestImage, audience: Audience, *, encrypt: bool) -> None:
        self.lab = lab
        self.image = image
        self.audience = audience
        self.encrypt = encrypt
        self.source, self.destination = lab.hosts[:2]
        self._peers: list[LibvirtPeer] = []

    async def kvmove(self, vm: LedgerVm, nics: tuple[str, ...]) -> ContestantResult:
        """Move `vm` with kvmove over these NICs; afterwards it is gone.

        :raise KvmoveError: the move did not succeed.
        """
        self.audience.say(f"kvmove over {' and '.join(nics)}")
        await ledger_vm.define(self.lab, vm, self.image, self.source.name)
        await ledger_vm.start(self.lab, vm)
        request = MoveRequest(vm=vm.name, host=self.destination.name, nics=nics, encrypt=self.encrypt)
        moved = await watched_move(self.lab, vm, request, self.audience, settle=SETTLE, sample=False)
        allocated = _allocated(vm.disk_file(self.destination))
        report = moved.task.report
        self.audience.say(_phases(report))
        downtime = report.downtime_ms if report else 0.0
        await self.lab.manager.kill_vm(str(vm.uuid))
        await self.lab.manager.delete_vm(str(vm.uuid))
        return self._result(vm, moved.at, downtime, sum(moved.sent.values()), allocated)

    async def libvirt_until_its_guest_lives(self) -> ContestantResult:
        """QEMU 7.2 can lose memory of an emulated guest that it migrates if its RAM is a multiple of 256 KiB, and
        libvirt allows no other sizes: now and then its guest does not outlive the move, and it is moved again.

        :raise LabFailed: as `libvirt`, and three times.
        """
        for attempt in range(LIBVIRT_ATTEMPTS):
            try:
                return await self.libvirt(contender("libvirt", 1))
            except LabFailed as error:
                if attempt == LIBVIRT_ATTEMPTS - 1:
                    raise
                self.audience.say(f"libvirt's guest did not outlive its move; once more ({error.detail})")
                for peer in await self._libvirt_peers():
                    with contextlib.suppress(LabFailed):
                        await peer.virsh("destroy", "libvirt")
                await asyncio.to_thread(self._remove_disks, self._peer_guest(contender("libvirt", 1)).disk)
        raise AssertionError("the loop returns or raises")

    async def libvirt(self, vm: LedgerVm) -> ContestantResult:
        """Move `vm` with libvirt in synchronous mode over the first NIC; afterwards it is gone.

        :raise LabFailed: libvirt is not installed, refused, or took longer than some minutes.
        """
        self.audience.say("libvirt, synchronous writes, over mig0")
        here, there = await self._libvirt_peers()
        guest = self._peer_guest(vm)
        await asyncio.to_thread(ledger_vm.fill, self.source.outside(guest.disk), vm, self.image)
        await asyncio.to_thread(_make_empty, self.destination.outside(guest.disk), vm.disk)
        await here.start_guest(guest)
        await ledger_vm.wait_until_heard(self.lab, vm)
        watched = now_ns()
        await asyncio.sleep(SETTLE)
        at, sent = await self._timed(
            watched, lambda: here.migrate(vm.name, there, *SYNCHRONOUS, timeout=LIBVIRT_TIMEOUT)
        )
        figures = await there.figures(vm.name)
        allocated = _allocated(self.destination.outside(guest.disk))
        await there.virsh("destroy", vm.name)
        await asyncio.to_thread(self._remove_disks, guest.disk)
        return self._result(vm, at, figures.downtime_ms, sent, allocated)

    async def _libvirt_peers(self) -> list[LibvirtPeer]:
        """libvirt on the first two hosts, started at first."""
        if not self._peers:
            self._peers = [LibvirtPeer(host, self.lab.folders) for host in (self.source, self.destination)]
            await asyncio.gather(*(peer.start() for peer in self._peers))
        return self._peers

    async def _timed(self, watched: int, migrate: Callable[[], Awaitable[None]]) -> tuple[Instants, int]:
        counters = await self.source.nic_counters()
        asked = now_ns()
        await migrate()
        ended = now_ns()
        sent = observation.sent_between(counters, await self.source.nic_counters())
        await asyncio.sleep(SETTLE)
        at = Instants(watched, asked, ended, now_ns())
        await asyncio.sleep(observation.SLACK / 1e9)
        return at, sum(sent.values())

    def _peer_guest(self, vm: LedgerVm) -> PeerGuest:
        return PeerGuest(
            name=vm.name, memory=vm.memory, disk=self.lab.folders.datastore() / f"{vm.name}.raw",
            kernel=self.image.kernel.resolve(), initrd=self.image.initrd.resolve(),
            command_line=vm.options.command_line(), mac=addresses.guest_mac(vm.number),
            serial=self.lab.folders.var / f"{vm.name}-serial.log",
        )  # fmt: skip

    def _remove_disks(self, disk: Path) -> None:
        for host in (self.source, self.destination):
            host.outside(disk).unlink(missing_ok=True)

    def _result(self, vm: LedgerVm, at: Instants, downtime: float, sent: int, allocated: int) -> ContestantResult:
        log = RecorderLog(preparation.recorder_folder(self.lab.folders))
        seen = observation.guest_figures(log, vm.number, at)
        return ContestantResult(
            seconds=round((at.ended - at.asked) / 1e9, 2),
            writes_per_second=round(seen.writes_copying, 1),
            longest_gap_ms=seen.gap_copying_ms,
            downtime_ms=downtime,
            bytes_sent=sent,
            allocated_bytes=allocated,
        )


def _phases(report: MoveReport | None) -> str:
    phases = report.phases if report else ()
    return "  " + ", ".join(f"{phase.phase.value} {format_duration(phase.seconds)}" for phase in phases)


def _make_empty(file: Path, size: int) -> None:
    with file.open("xb") as empty:
        empty.truncate(size)


def _allocated(file: Path) -> int:
    """What the file takes up, in bytes, once everything is written down."""
    with file.open("rb") as content:
        os.fsync(content.fileno())
    return file.stat().st_blocks * 512
