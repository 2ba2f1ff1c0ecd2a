"""Whoever moves the same guest in the same lab, from the first host to the second: kvmove, libvirt, plain QEMU.

What is seen of a move is measured outside of all of them in the same way. Each leaves the lab as it found it.
Deliberately not here: what the figures are compared with, and which guest.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kvmove.lab import addresses, ledger_vm, observation
from kvmove.lab.commands import LabFailed
from kvmove.lab.guest.image import GuestImage
from kvmove.lab.guest.recorder_log import now_ns
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import DISK, LedgerVm
from kvmove.lab.libvirt_peer import LibvirtPeer, PeerGuest
from kvmove.lab.machine_cpu import MachineCpu
from kvmove.lab.moving import Audience, follow
from kvmove.lab.observation import Instants
from kvmove.lab.plain_qemu import PlainQemu
from kvmove.lab.touched_memory import touched_memory
from kvmove.model.move import MoveReport, MoveRequest
from kvmove.units import format_duration

ATTEMPTS = 3
SYNCHRONOUS = ("--copy-storage-synchronous-writes", "--auto-converge")


@dataclass(frozen=True)
class Ran:
    """One move as it went. Bytes; `to_move` is what the disk's file and the guest's memory held when it was asked for.

    `converged` is False if it was given up when its time was over. `stated_downtime_ms` is what the contestant says, 0
    if it says nothing. `cpu_seconds` is what the machine did beside the guest.
    """

    at: Instants
    sent: int
    to_move: int
    allocated: int
    converged: bool = True
    stated_downtime_ms: float = 0.0
    cpu_seconds: float = 0.0


class Contestants:
    """The lab they move their guests in. `settle`: how long a guest is watched before and after, seconds."""

    def __init__(self, lab: Lab, image: GuestImage, audience: Audience, settle: float) -> None:
        self.lab = lab
        self.image = image
        self.audience = audience
        self.settle = settle
        self.source, self.destination = lab.hosts[:2]
        self._peers: list[LibvirtPeer] = []

    async def kvmove(self, vm: LedgerVm, nics: tuple[str, ...], *, encrypt: bool) -> Ran:
        """Move `vm` with kvmove over these NICs.

        :raise KvmoveError: the move did not succeed.
        """
        self.audience.say(f"kvmove over {' and '.join(nics)}{'' if encrypt else ', not encrypted'}")
        await ledger_vm.define(self.lab, vm, self.image, self.source.name)
        await ledger_vm.start(self.lab, vm)
        request = MoveRequest(vm=vm.name, host=self.destination.name, nics=nics, encrypt=encrypt)
        reports: list[MoveReport | None] = []

        async def move() -> bool:
            task = await follow(self.lab, await self.lab.manager.start_move(request), self.audience)
            reports.append(task.report)
            return True

        watched = now_ns()
        await asyncio.sleep(self.settle)
        disk = self.lab.folders.datastore() / str(vm.uuid) / f"{DISK}.{vm.format}"
        try:
            ran = await self._timed(watched, vm, disk, move)
        finally:
            await self.lab.manager.kill_vm(str(vm.uuid))
            await self.lab.manager.delete_vm(str(vm.uuid))
        [report] = reports
        self.audience.say(_phases(report))
        return replace(ran, stated_downtime_ms=report.downtime_ms if report else 0.0)

    async def libvirt(self, vm: LedgerVm, options: tuple[str, ...], limit: float) -> Ran:
        """Move `vm` with libvirt over the first NIC; what is not there within `limit` seconds is given up.

        QEMU 7.2 can lose memory of an emulated guest that it migrates if its RAM is a multiple of 256 KiB, and libvirt
        allows no other sizes: now and then its guest does not outlive the move, and it is moved again.

        :raise LabFailed: libvirt is not installed, or refused, three times.
        """
        self.audience.say(f"libvirt over mig0 {' '.join(options)}".rstrip())
        for attempt in range(ATTEMPTS):
            try:
                return await self._libvirt_once(vm, options, limit)
            except LabFailed as error:
                if attempt == ATTEMPTS - 1:
                    raise
                self.audience.say(f"libvirt's guest did not outlive its move; once more ({error.detail})")
        raise AssertionError("the loop returns or raises")

    async def qemu(self, vm: LedgerVm, limit: float) -> Ran:
        """Move `vm` as one does it with plain QEMU, by hand, over the first NIC; given up after `limit` seconds.

        :raise KvmoveError: QEMU refused.
        """
        self.audience.say("plain QEMU over mig0: NBD, mirror, migrate")
        disk = self.lab.folders.datastore() / f"{vm.name}.raw"
        async with self._disks(disk, vm):
            start = PlainQemu.started
            async with (
                start(self.source, self.lab.folders, vm, self.image, incoming=False) as here,
                start(self.destination, self.lab.folders, vm, self.image, incoming=True) as there,
            ):
                await here.run()
                await ledger_vm.wait_until_heard(self.lab, vm)
                watched = now_ns()
                await asyncio.sleep(self.settle)
                return await self._timed(watched, vm, disk, lambda: _within(limit, here.move_to(there)))

    async def _libvirt_once(self, vm: LedgerVm, options: tuple[str, ...], limit: float) -> Ran:
        here, there = await self._libvirt_peers()
        guest = self._peer_guest(vm)
        async with self._disks(guest.disk, vm):
            try:
                await here.start_guest(guest)
                await ledger_vm.wait_until_heard(self.lab, vm)
                watched = now_ns()
                await asyncio.sleep(self.settle)
                ran = await self._timed(
                    watched, vm, guest.disk, lambda: here.migrate_within(limit, vm.name, there, *options)
                )
                stated = (await there.figures(vm.name)).downtime_ms if ran.converged else 0.0
            finally:
                for peer in (here, there):
                    with contextlib.suppress(LabFailed):
                        await peer.virsh("destroy", vm.name)
        return replace(ran, stated_downtime_ms=stated)

    async def _timed(self, watched: int, vm: LedgerVm, disk: Path, migrate: Callable[[], Awaitable[bool]]) -> Ran:
        to_move = await asyncio.to_thread(self._to_move, self.source.outside(disk), vm.memory)
        counters = await self.source.nic_counters()
        async with MachineCpu(self.source, self.destination) as cpu:
            asked = now_ns()
            converged = await migrate()
            ended = now_ns()
        sent = observation.sent_between(counters, await self.source.nic_counters())
        await asyncio.sleep(self.settle)
        at = Instants(watched, asked, ended, now_ns())
        await asyncio.sleep(observation.SLACK / 1e9)
        allocated = await asyncio.to_thread(_allocated, self.destination.outside(disk))
        return Ran(at, sum(sent.values()), to_move, allocated, converged, cpu_seconds=cpu.seconds)

    def _to_move(self, disk: Path, ram: int) -> int:
        """`disk` as seen from outside the host; all in bytes."""
        [pid] = self.source.qemu_pids().values()
        return disk.stat().st_blocks * 512 + touched_memory(pid, ram)

    async def _libvirt_peers(self) -> list[LibvirtPeer]:
        """libvirt on the first two hosts, started at first."""
        if not self._peers:
            self._peers = [LibvirtPeer(host, self.lab.folders) for host in (self.source, self.destination)]
            await asyncio.gather(*(peer.start() for peer in self._peers))
        return self._peers

    @contextlib.asynccontextmanager
    async def _disks(self, disk: Path, vm: LedgerVm) -> AsyncIterator[None]:
        """The guest's disk on the source, an empty one on the destination; gone afterwards."""
        places = self.source.outside(disk), self.destination.outside(disk)
        try:
            await asyncio.to_thread(ledger_vm.fill, places[0], vm, self.image)
            await asyncio.to_thread(_make_empty, places[1], vm.disk)
            yield
        finally:
            for place in places:
                place.unlink(missing_ok=True)

    def _peer_guest(self, vm: LedgerVm) -> PeerGuest:
        return PeerGuest(
            name=vm.name, memory=vm.memory, disk=self.lab.folders.datastore() / f"{vm.name}.raw",
            kernel=self.image.kernel.resolve(), initrd=self.image.initrd.resolve(),
            command_line=vm.options.command_line(), mac=addresses.guest_mac(vm.number),
            serial=self.lab.folders.var / f"{vm.name}-serial.log",
        )  # fmt: skip


async def _within(limit: float, move: Awaitable[None]) -> bool:
    """Whether it ended in time."""
    try:
        async with asyncio.timeout(limit):
            await move
    except TimeoutError:
        return False
    return True


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
