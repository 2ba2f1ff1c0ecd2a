"""What a host tells for a forecast: how busy the guest is, what the wire carries, how fast a datastore takes data.

    side          asked for     costs
    source        guest         about a second; QEMU hashes some of the guest's pages
    destination   expect        nothing; it takes the streams of the next one for some seconds
    source        wire          half a second of sending, bounded
    who writes    storage       some tenths of a second of writing, bounded, to a file without a name

Nothing is changed, nothing is left, and nothing is written down: an agent that dies here has lost a sample. What cannot
be measured is left out of the answer, which says why; only what is asked for by mistake is an error.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from kvmove.agent.tickets import ticket_of
from kvmove.disk import speed
from kvmove.errors import InvalidInput, KvmoveError
from kvmove.migration.host_parts import HostParts
from kvmove.model.forecast import DiskSample, GuestSample, StorageSample, WireSample
from kvmove.model.move import DiskPlacement, MoveKind, MovePlan, Route
from kvmove.model.vm import Power
from kvmove.pki.contexts import LiveContext, client_context
from kvmove.pki.identity import Identity, Role
from kvmove.qemu import guest_load
from kvmove.qemu.instance import Instance
from kvmove.transport.dial import Dialer
from kvmove.transport.listener import Expected
from kvmove.transport.priority import yield_to_guests
from kvmove.transport.stream import StreamLost
from kvmove.transport.wire_probe import answer_try, try_wire
from kvmove.units import MIB
from kvmove.wire.handshake import StreamRole

log = logging.getLogger(__name__)

EXPECT_SECONDS = 10.0
"""So long the streams of a try are taken."""

TRIES_SECONDS = 0.6
"""By then the tries of wire and storage, asked for together with the guest, are over."""

PRESSURE_SECONDS = 0.4
"""So long is looked who waits for processors, once the tries themselves are over."""

_TRY = "try-"
_PRESSURE = Path("/proc/pressure/cpu")
_WAITED = re.compile(r"some avg10=([0-9.]+) .* total=(\d+)")


class Samples:
    """The samples that one host can give. `plan` is that of the move which is forecast; nothing of it is begun."""

    def __init__(self, host: HostParts) -> None:
        self._host = host

    async def guest(self, plan: MovePlan) -> GuestSample:
        """The VM's guest, seen for a second, and how busy this host is; of a VM that is off only this.

        :raise NotFound: this host has no such VM. :raise CheckFailed: it is off by now.
        """
        async with asyncio.TaskGroup() as group:
            pressure = group.create_task(_pressure())
            guest = group.create_task(self._guest(plan))
        return guest.result().model_copy(update={"pressure": pressure.result()})

    async def _guest(self, plan: MovePlan) -> GuestSample:
        if plan.power is Power.OFF:
            return GuestSample()
        instance = self._host.vms.instance(plan.vm.uuid)
        size = await guest_load.memory_size(instance.monitor)
        used = await _memory_used(instance, size)
        if plan.power is not Power.RUNNING:
            return GuestSample(memory_used=used, dirty_rate=0, write_rate=0, writes=0.0)
        before, began = await guest_load.written(instance.monitor), asyncio.get_running_loop().time()
        rate, why = await _dirty_rate(instance, size) if plan.moves_memory else (None, "")
        if rate is None:
            await asyncio.sleep(guest_load.SAMPLE_SECONDS)
        after = await guest_load.written(instance.monitor)
        seconds = asyncio.get_running_loop().time() - began
        return GuestSample(
            memory_used=used,
            dirty_rate=rate,
            write_rate=round((after.size - before.size) / seconds),
            writes=round((after.requests - before.requests) / seconds, 1),
            unknown=(why,) if why else (),
        )

    def expect(self, plan: MovePlan, ticket: str) -> None:
        """Take the streams of a try of the wire, for EXPECT_SECONDS.

        :raise InvalidInput: this host is not the destination, or the ticket is none.
        """
        if plan.destination.name != self._host.name:
            raise InvalidInput(f"host {self._host.name} is not the destination of move {plan.move_id}")
        name = _TRY + plan.move_id
        expected = Expected(ticket_of(ticket), plan.source.name, plan.encrypt, lambda _, stream: answer_try(stream))
        self._host.listener.expect(name, expected)
        asyncio.get_running_loop().call_later(EXPECT_SECONDS, self._host.listener.forget, name)

    async def wire(self, plan: MovePlan, ticket: str) -> WireSample:
        """Try all pairs of NICs of the plan at once; the destination must expect it.

        :raise InvalidInput: this host is not the source, or the ticket is none.
        """
        if plan.source.name != self._host.name:
            raise InvalidInput(f"host {self._host.name} is not the source of move {plan.move_id}")
        context = LiveContext(self._host.pki, client_context) if plan.encrypt else None
        name = Identity(Role.AGENT, plan.destination.name).dns_name
        dialer = Dialer(_TRY + plan.move_id, ticket_of(ticket), context, name)
        loop = asyncio.get_running_loop()
        rates: dict[str, int] = {}
        unknown: list[str] = []
        with ThreadPoolExecutor(max(len(plan.routes), 1), "try-wire", yield_to_guests) as threads:
            tries = [loop.run_in_executor(threads, _try, dialer, it, n) for n, it in enumerate(plan.routes)]
            for route, rate in zip(plan.routes, await asyncio.gather(*tries, return_exceptions=True), strict=True):
                if isinstance(rate, int):
                    rates[route.nic] = rates.get(route.nic, 0) + rate
                elif isinstance(rate, StreamLost):
                    unknown.append(f"{route.nic}: {rate}")
                else:
                    raise rate
        return WireSample(rates=rates, unknown=tuple(unknown))

    async def storage(self, plan: MovePlan) -> StorageSample:
        """Write for a moment to the new place of each disk, which this host is to write; block devices are left alone.

        Disks whose datastores share blocks with where they are now are not written to.
        """
        found: dict[str, DiskSample] = {}
        unknown: list[str] = []
        for place, disks in _by_place(plan).items():
            try:
                found |= await asyncio.to_thread(self._storage, plan, place, disks)
            except (KvmoveError, OSError) as error:
                unknown.append(f"datastore {place}: {error}")
        return StorageSample(disks=found, unknown=tuple(unknown))

    def _storage(self, plan: MovePlan, place: str, disks: list[DiskPlacement]) -> dict[str, DiskSample]:
        store = self._host.datastores.get(place)
        if store is None or store.is_of_devices:
            return {}
        store.info()  # its identity: nothing is to be written below a mount point that lost its file system
        sharing = {disk.name for disk in disks if self._shares(plan, disk)}
        rate = speed.write_rate(store.path) if len(sharing) < len(disks) else None
        return {
            disk.name: DiskSample(shares_blocks=True) if disk.name in sharing else DiskSample(rate=rate)
            for disk in disks
        }

    def _shares(self, plan: MovePlan, disk: DiskPlacement) -> bool:
        """Whether the disk is moved by sharing its blocks: a raw file, by its own host, within one file system."""
        if plan.kind is not MoveKind.STORAGE and disk.reached_as is None:
            return False
        old = self._host.datastores.get(disk.source_datastore)
        if old is None or old.is_of_devices or {disk.source_format, disk.format} != {"raw"}:
            return False
        new = self._host.datastores[_place(disk)]
        with suppress(OSError):
            return speed.shares_blocks(old.path, new.path)
        return False


async def _pressure() -> float | None:
    """See `GuestSample`; None where the kernel does not tell (Linux: accounting/psi). The lesser of the last
    ten seconds and of a moment after the tries: a move that has just ended, or a try, is no load for the next one."""
    await asyncio.sleep(TRIES_SECONDS)
    before, began = await asyncio.to_thread(_waited), time.monotonic()
    await asyncio.sleep(PRESSURE_SECONDS)
    after, seconds = await asyncio.to_thread(_waited), time.monotonic() - began
    if before is None or after is None:
        return None
    return min(after[0], (after[1] - before[1]) / seconds, 1.0)


def _waited() -> tuple[float, float] | None:
    """The share of the last ten seconds in which something waited for a processor, and all such seconds."""
    try:
        found = _WAITED.match(_PRESSURE.read_text())
    except OSError:
        return None
    return (float(found[1]) / 100, int(found[2]) / 1e6) if found else None


async def _memory_used(instance: Instance, size: int) -> int | None:
    try:
        return guest_load.memory_used(await asyncio.to_thread(guest_load.read_smaps, instance.process.pid), size)
    except OSError:
        return None


async def _dirty_rate(instance: Instance, size: int) -> tuple[int | None, str]:
    """The rate, or why there is none."""
    if size < guest_load.LEAST_SAMPLED:
        return None, f"QEMU does not measure how guests below {guest_load.LEAST_SAMPLED // MIB} MiB change their memory"
    try:
        return await guest_load.dirty_rate(instance.monitor), ""
    except KvmoveError as error:
        return None, f"how fast the guest changes memory was not measured: {error.detail}"


def _try(dialer: Dialer, route: Route, number: int) -> int:
    return try_wire(dialer.open(route, StreamRole.DISK, number))


def _place(disk: DiskPlacement) -> str:
    return disk.reached_as or disk.destination_datastore


def _by_place(plan: MovePlan) -> dict[str, list[DiskPlacement]]:
    found: dict[str, list[DiskPlacement]] = {}
    for disk in plan.disks:
        found.setdefault(_place(disk), []).append(disk)
    return found
