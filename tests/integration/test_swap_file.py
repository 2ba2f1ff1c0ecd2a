"""A VM's swap file: where it lies while the VM runs and moves, and that nothing of it is ever left.

In the lab's moves the guest writes all the time, and its ledger is judged in the end. Where memory goes between QEMUs
with and without a swap file, the guest checks its own memory and says on its serial line what is wrong.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kvmove.disk.errors import DiskError
from kvmove.errors import CheckFailed, NotFound
from kvmove.lab.guest.image import build
from kvmove.lab.guest.options import GuestOptions, Mode, serial_trouble
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.spec import LOCAL, SHARED
from kvmove.model.vm import BootDefinition, VmDefinition, VmState
from kvmove.qemu import run_control
from kvmove.qemu.command_line import VmPaths, VmResources, command_line
from kvmove.qemu.features import find_features
from kvmove.qemu.instance import Instance
from kvmove.qemu.migration import Migration, MigrationParameters, Status
from kvmove.units import MIB
from tests.support.eventually import eventually
from tests.support.moving_guest import GUEST, World, world
from tests.support.real_qemu import PATIENCE, definition, discard, make_disks, until
from tests.support.vm_host import definition as small_vm
from tests.support.vm_host import vm_host

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

VM = LedgerVm(
    name="swapper", memory=160 * MIB, disk=256 * MIB, data=64 * MIB, ram_mib=32, rate=300, datastore=SHARED,
    swap="with-vm",
)  # fmt: skip
FOLDER = ".kvmove-swap"


def swap_files(pid: int) -> list[str]:
    """The files that the memory of this QEMU is mapped from and written to, by /proc/PID/maps."""
    lines = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return [words[5] for words in lines if words[1] == "rw-s" and "qemu_back_mem" in words[-1]]


def mapped_from(pid: int) -> tuple[int, int]:
    """The device and the allocated bytes of that file, which has no name any more."""
    [link] = [it for it in Path(f"/proc/{pid}/fd").iterdir() if "qemu_back_mem" in str(it.readlink())]
    found = link.stat()
    assert found.st_nlink == 0
    return found.st_dev, found.st_blocks * 512


def lies_in(there: World, host: LabHost, datastore: str) -> None:
    """The guest's memory on `host` is a file there, of which all space is taken; and nobody sees it."""
    pid = host.qemu_pids()[there.vm.uuid]
    folder = host.datastore_called(datastore) / FOLDER
    [file] = swap_files(pid)
    device, taken = mapped_from(pid)
    assert f"/{FOLDER}/qemu_back_mem.pc.ram." in file
    assert device == folder.stat().st_dev
    assert taken >= 159 * MIB
    assert list(folder.iterdir()) == []


async def test_a_host_move_on_the_shared_datastore_has_two_files_there_and_leaves_none() -> None:
    async with world(VM, "swp") as there:
        h1, h2 = there.lab.hosts
        lies_in(there, h1, SHARED)
        for host in (h2, h1):
            moved = await there.move(host.name)
            report = moved.task.report
            assert report is not None
            assert report.memory_bytes > 32 * MIB, "memory goes over the wire, wherever its pages lie"
            await there.runs_on(host)
            lies_in(there, host, SHARED)
        await there.judge("h1")
        assert list((h1.datastore_called(SHARED) / FOLDER).iterdir()) == []


@pytest.mark.full
async def test_a_host_move_between_local_swap_files() -> None:
    async with world(replace(VM, swap=f"host:{LOCAL}"), "swp") as there:
        h1, h2 = there.lab.hosts
        lies_in(there, h1, LOCAL)
        await there.move("h2")
        await there.runs_on(h2)
        lies_in(there, h2, LOCAL)
        await there.judge("h2")
        assert not (h1.datastore_called(SHARED) / FOLDER).exists()


@pytest.mark.full
async def test_in_a_unified_move_it_goes_where_the_first_disk_goes() -> None:
    async with world(VM, "swp") as there:
        h2 = there.lab.host("h2")
        await there.move("h2", datastore=LOCAL, verify=True)
        await there.runs_on(h2)
        lies_in(there, h2, LOCAL)
        await there.judge("h2", h2.datastore_called(LOCAL) / str(VM.uuid) / "root.raw")


@pytest.mark.full
async def test_after_a_storage_move_it_stays_until_the_vm_moves_to_another_host() -> None:
    async with world(replace(VM, datastore=LOCAL), "swp") as there:
        h1, h2 = there.lab.hosts
        checked = await there.lab.manager.check_move(there.request(None, datastore=SHARED))
        assert any("the swap file of swapper stays in datastore local" in it.what for it in checked.findings)
        await there.move(None, datastore=SHARED)
        lies_in(there, h1, LOCAL)
        await there.move("h2")
        lies_in(there, h2, SHARED)
        await there.judge("h2", h2.datastore_called(SHARED) / str(VM.uuid) / "root.raw")


async def test_a_killed_qemu_leaves_nothing_and_a_failed_move_neither() -> None:
    async with world(VM, "swp") as there:
        h1, h2 = there.lab.hosts
        folder = h1.datastore_called(SHARED) / FOLDER
        await there.fails(there.request("h2"), "source-pre-copy", lambda: h2.kill_qemu(VM.uuid))
        await there.runs_on(h1)
        lies_in(there, h1, SHARED)
        h1.kill_qemu(VM.uuid)
        await eventually(lambda: not (there.lab.folders.host_run("h1") / "vms" / str(VM.uuid)).exists())
        assert list(folder.iterdir()) == []
        await there.lab.manager.start_vm(str(VM.uuid))
        await there.runs_on(h1)
        lies_in(there, h1, SHARED)


async def test_a_vm_whose_swap_file_has_no_place_is_neither_defined_nor_started(tmp_path: Path) -> None:
    async with vm_host(tmp_path) as host:
        with pytest.raises(NotFound, match="no datastore ssd for the swap file"):
            await host.vms.define(small_vm().model_copy(update={"swap": "host:ssd"}))
        with pytest.raises(CheckFailed, match="the swap file of VM web needs"):
            await host.vms.define(small_vm().model_copy(update={"swap": "with-vm", "memory": 2**60}))
        assert host.stores["ds"].vms() == []
        assert await host.vms.statuses() == []
        vm = small_vm().model_copy(update={"swap": "with-vm"})
        await host.vms.define(vm)
        (host.folder / "ds" / FOLDER).write_text("in the way")
        with pytest.raises(DiskError, match="make a folder for swap files"):
            await host.vms.start(vm.uuid)
        assert (await host.vms.status(vm.uuid)).state is VmState.OFF
        assert host.leftovers(vm.uuid) == []


def ledger_guest() -> VmDefinition:
    """It writes to 64 MiB of memory all the time, checks what it finds there, and leaves its disk alone."""
    image = build(GUEST)
    options = GuestOptions(mode=Mode.IDLE, ram_mib=64, ram_rate=4000, sweep_seconds=1)
    boot = BootDefinition(
        kernel=str(image.kernel.resolve()), initrd=str(image.initrd.resolve()), command_line=options.command_line()
    )
    return definition().model_copy(update={"memory": 192 * MIB, "boot": boot})


@asynccontextmanager
async def qemu(vm: VmDefinition, folder: Path, *, swap: bool, incoming: bool) -> AsyncIterator[Instance]:
    """A QEMU of the VM in `folder`; all of them use one disk."""
    (folder / FOLDER).mkdir(parents=True)
    paths = VmPaths(folder, folder)
    disks = (
        make_disks(folder.parent / "disks", vm, blank=True)
        if not incoming
        else {disk.name: folder.parent / "disks" / f"{disk.name}.raw" for disk in vm.disks}
    )
    resources = VmResources(disks, {}, folder / FOLDER if swap else None)
    instance = await Instance.start(vm, command_line(vm, "tcg", paths, resources, incoming=incoming), paths)
    try:
        assert len(swap_files(instance.process.pid)) == swap
        yield instance
    finally:
        await discard(instance)


async def checks_its_memory(folder: Path) -> None:
    """The guest in the QEMU there has done so for some seconds."""
    log = folder / "serial.log"
    await until(lambda: log.read_text().count("ledger: t=") >= 3, "the guest checks its memory")


async def hand_over(source: Instance, destination: Instance, at: Path) -> None:
    """Migrate a guest that writes all the time; it must converge by itself."""
    out = Migration(source.monitor, await find_features(source.monitor))
    into = Migration(destination.monitor, await find_features(destination.monitor))
    await into.configure_destination(2)
    await out.configure_source(2, MigrationParameters(max_bandwidth=0, downtime_limit_ms=500))
    await into.incoming(f"unix:{at}")
    await out.migrate(f"unix:{at}")
    await out.wait_status([Status.PRE_SWITCHOVER], timeout=120)
    await out.continue_switchover()
    await out.wait_status([Status.COMPLETED], timeout=PATIENCE)
    await into.wait_status([Status.COMPLETED], timeout=PATIENCE)
    await run_control.cont(destination.monitor)


@pytest.mark.full
async def test_memory_goes_between_qemus_with_and_without_a_swap_file(tmp_path: Path) -> None:
    """RAM has the same name in the stream. Each hop under load; the guest finds its memory as it wrote it."""
    vm = ledger_guest()
    async with AsyncExitStack() as stack:
        now = await stack.enter_async_context(qemu(vm, tmp_path / "0", swap=False, incoming=False))
        await run_control.cont(now.monitor)
        for hop, swap in enumerate((True, False, True, True), start=1):
            await checks_its_memory(tmp_path / str(hop - 1))
            there = await stack.enter_async_context(qemu(vm, tmp_path / str(hop), swap=swap, incoming=True))
            await hand_over(now, there, tmp_path / f"in{hop}")
            await discard(now)
            now = there
        await checks_its_memory(tmp_path / "4")
    logs = "".join((tmp_path / str(hop) / "serial.log").read_text() for hop in range(5))
    assert "ledger: t=" in logs
    assert serial_trouble(logs) == []
    assert [list((tmp_path / str(hop) / FOLDER).iterdir()) for hop in range(5)] == [[]] * 5
