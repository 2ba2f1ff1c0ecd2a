"""Real QEMUs for tests: started as the agent starts them, with the boot-sector guest, and ended whatever happens."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

from kvmove.disk import qcow2
from kvmove.disk.qcow2 import Layer
from kvmove.model.vm import DiskDefinition, DiskFormat, VmDefinition
from kvmove.qemu import run_control
from kvmove.qemu.command_line import VmPaths, VmResources, command_line
from kvmove.qemu.features import find_features
from kvmove.qemu.instance import Instance
from kvmove.qemu.migration import Migration
from tests.support.boot_guest import DISK_SIZE, highest_count, write_boot_disk

PATIENCE = 30.0
"""Seconds that a test waits for anything of a guest on a busy machine."""


_PAUSE = 0.02
_TRIES = int(PATIENCE / _PAUSE)


class Machine(NamedTuple):
    """A QEMU with its things. `disk` is the file of its first disk."""

    definition: VmDefinition
    paths: VmPaths
    disk: Path
    arguments: list[str]
    qemu: Instance

    async def migration(self) -> Migration:
        return Migration(self.qemu.monitor, await find_features(self.qemu.monitor))

    async def run_state(self) -> str:
        return await run_control.run_state(self.qemu.monitor)


def definition(uuid: UUID | None = None, disks: int = 1, disk_format: DiskFormat = DiskFormat.RAW) -> VmDefinition:
    """A VM of 64 MiB (QEMU gets 64 KiB less) with small disks."""
    return VmDefinition(
        name="guest",
        uuid=uuid or uuid4(),
        memory=64 << 20,
        disks=tuple(
            DiskDefinition(name=f"disk{n}", datastore="ds", size=DISK_SIZE, format=disk_format) for n in range(disks)
        ),
    )


def make_disks(folder: Path, vm: VmDefinition, *, blank: bool = False) -> dict[str, Path]:
    """A file per disk; the first holds the guest, unless `blank`. A qcow2 disk rests on a raw one that does."""
    folder.mkdir(exist_ok=True)
    files = {disk.name: folder / f"{disk.name}.raw" for disk in vm.disks}
    for number, file in enumerate(files.values()):
        if number or blank:
            file.write_bytes(bytes(DISK_SIZE))
        else:
            write_boot_disk(file)
    for disk in vm.disks:
        if disk.format is DiskFormat.QCOW2:
            base = Layer(files[disk.name], DiskFormat.RAW)
            files[disk.name] = folder / f"{disk.name}.qcow2"
            qcow2.create(files[disk.name], DISK_SIZE, backing=base)
    return files


@asynccontextmanager
async def machine(
    folder: Path, vm: VmDefinition | None = None, *, incoming: bool = False, blank: bool = False
) -> AsyncIterator[Machine]:
    """Start a QEMU whose guest stands still; `blank` leaves the first disk without the guest."""
    vm = vm or definition()
    files = make_disks(folder, vm, blank=blank or incoming)
    paths = VmPaths(folder, folder)
    arguments = command_line(vm, "tcg", paths, VmResources(files, {}), incoming=incoming)
    qemu = await Instance.start(vm, arguments, paths)
    try:
        yield Machine(vm, paths, next(iter(files.values())), arguments, qemu)
    finally:
        await discard(qemu)


async def discard(qemu: Instance) -> None:
    """End a QEMU that the test may have ended, stopped or disconnected already."""
    try:
        if qemu.process.is_alive():
            await qemu.process.end(patience=5)
    except ValueError:
        return  # let go of by the test
    await qemu.disconnect()


@asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[tuple[Machine, Machine]]:
    """A source with a guest (not yet running) and a destination that waits for it."""
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(machine(folder / "s"))
        destination = await stack.enter_async_context(machine(folder / "d", source.definition, incoming=True))
        yield source, destination


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds."""
    for _ in range(_TRIES):
        if condition():
            return
        await asyncio.sleep(_PAUSE)
    raise AssertionError(f"not within {PATIENCE:g} s: {what}")


async def until_state(of: Machine, state: str) -> None:
    """Wait until QEMU's run state is `state`."""
    for _ in range(_TRIES):
        if await of.run_state() == state:
            return
        await asyncio.sleep(_PAUSE)
    raise AssertionError(f"QEMU is {await of.run_state()}, not {state}")


async def adopted(vm: VmDefinition, paths: VmPaths) -> Instance:
    """The QEMU that another process started a moment ago."""
    for _ in range(_TRIES):
        if (found := await Instance.adopt(vm, paths)) is not None:
            return found
        await asyncio.sleep(_PAUSE)
    raise AssertionError("no such QEMU runs")


async def until_it_writes(disk: Path, more_than: int | None = None) -> int:
    """Wait until the guest on `disk` counted past `more_than` (default: past what is there); the count."""
    before = highest_count(disk) if more_than is None else more_than
    await until(lambda: highest_count(disk) > before, f"the guest writes past {before}")
    return highest_count(disk)
