"""Disks on real block devices (loop devices), under our own readers and writers and under a real QEMU."""

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from kvmove.disk.datastore import Datastore
from kvmove.disk.digest import content_digest, disk_digest
from kvmove.disk.errors import DiskError
from kvmove.disk.offload import Offload
from kvmove.disk.raw_file import RawFile, aligned_buffer
from kvmove.errors import CheckFailed, NotFound
from kvmove.model.vm import DiskDefinition, Provisioning, VmDefinition, VmState
from kvmove.qemu import run_control
from kvmove.qemu.disk_nodes import current_files, named_nodes
from kvmove.qemu.pivot import Pivot
from kvmove.units import MIB
from tests.support.boot_guest import DISK_SIZE, write_boot_disk
from tests.support.loop_devices import loop_devices
from tests.support.real_qemu import machine, until_it_writes
from tests.support.vm_host import definition, vm_host

pytestmark = pytest.mark.lab

VM = UUID("11111111-2222-3333-4444-555555555555")
SIZES = (16 * MIB, 24 * MIB, 16 * MIB)


@pytest.fixture(params=[512, 4096])
def devices(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Path]]:
    """Three that are full of what somebody has left there."""
    with loop_devices(tmp_path, SIZES, sector=request.param) as made:
        for device in made:
            device.write_bytes(b"\xee" * device_size(device))
        yield made


@pytest.fixture
def store(devices: list[Path], tmp_path: Path) -> Datastore:
    (tmp_path / "store").mkdir()
    Datastore.create("san", tmp_path / "store")
    return Datastore.open("san", tmp_path / "store", [str(device) for device in devices])


def disk(size: int = DISK_SIZE) -> DiskDefinition:
    return DiskDefinition(name="root", datastore="ds", size=size, provisioning=Provisioning.THICK)


def thick_vm() -> VmDefinition:
    return definition().model_copy(update={"disks": (disk(),)})


def device_size(device: Path) -> int:
    return int(subprocess.run(["blockdev", "--getsize64", device], check=True, capture_output=True).stdout)


def content(device: Path, size: int) -> bytes:
    with device.open("rb") as file:
        return file.read(size)


def test_a_disk_on_a_device_becomes_what_its_source_is_and_no_byte_more(store: Datastore, tmp_path: Path) -> None:
    image = tmp_path / "source.raw"
    with image.open("wb") as file:
        file.truncate(DISK_SIZE)
        file.seek(MIB)
        file.write(os.urandom(MIB) + bytes(MIB) + os.urandom(512))
    store.create_disk(VM, disk())
    with RawFile(image) as source, store.open_target(VM, disk()) as target:
        assert (target.size, target.allocated(), target.is_blank) == (DISK_SIZE, DISK_SIZE, False)
        way = Offload(source, target)
        for extent in source.extents(0, source.size):
            if extent.is_data:
                way.move(extent.offset, extent.length, untouched=False)
            else:
                target.write_zeroes(extent.offset, extent.length)
        target.sync_folder()
        way.sync()
    device = store.disk_path(VM, disk())
    assert content(device, DISK_SIZE) == image.read_bytes()
    assert content(device, device_size(device))[DISK_SIZE:] == b"\xee" * (device_size(device) - DISK_SIZE)
    with store.open_source(VM, disk(), direct=True) as copy:
        assert copy.is_direct
        assert [extent.length for extent in copy.extents(0, copy.size)] == [DISK_SIZE]
        assert content_digest(copy) == disk_digest(image) == disk_digest(device, device_size=DISK_SIZE)
    with pytest.raises(DiskError, match="size"):
        disk_digest(device)


def test_neither_reads_nor_writes_nor_zeroes_go_beyond_the_disk(store: Datastore) -> None:
    store.create_disk(VM, disk())
    with store.open_target(VM, disk()) as target, store.open_source(VM, disk(), direct=True) as source:
        acts: list[Callable[[], None]] = [
            lambda: target.write_at(DISK_SIZE - 1, b"xx"),
            lambda: target.write_at(DISK_SIZE, aligned_buffer(MIB)),
            lambda: target.write_zeroes(DISK_SIZE - 4096, 8192),
            lambda: source.read_into(memoryview(bytearray(2)), DISK_SIZE - 1),
        ]
        for act in acts:
            with pytest.raises(DiskError, match="beyond"):
                act()
        last = memoryview(bytearray(700))
        source.read_into(last, DISK_SIZE - 700)
        assert bytes(last) == b"\xee" * 700
    device = store.disk_path(VM, disk())
    assert content(device, device_size(device)) == b"\xee" * device_size(device)


@pytest.mark.parametrize(("offset", "length"), [(0, DISK_SIZE), (1, MIB), (4096, 4096), (700, 100), (512, 4608)])
def test_any_range_of_a_device_can_be_made_zero(store: Datastore, offset: int, length: int) -> None:
    device = store.create_disk(VM, disk())
    with store.open_target(VM, disk()) as target:
        target.write_zeroes(offset, length)
        target.sync()
    found = content(device, DISK_SIZE + MIB)
    assert found[:offset] == b"\xee" * offset
    assert not any(found[offset : offset + length])
    assert found[offset + length :] == b"\xee" * (DISK_SIZE + MIB - offset - length)


def test_claims_at_once_never_meet(store: Datastore, devices: list[Path]) -> None:
    hosts = [store, Datastore.open("other", store.path, [str(device) for device in devices])]

    def claim(number: int) -> Path | None:
        try:
            return hosts[number % 2].create_disk(uuid4(), disk())
        except CheckFailed:
            return None

    with ThreadPoolExecutor(8) as together:
        claimed = [path for path in together.map(claim, range(12)) if path is not None]
    assert sorted(claimed) == sorted(devices)
    assert store.info().devices == ()


def test_a_device_that_is_mounted_is_not_free(store: Datastore, devices: list[Path], tmp_path: Path) -> None:
    small, large, _ = devices
    subprocess.run(["mkfs.ext4", "-q", "-F", large], check=True)
    (tmp_path / "mnt").mkdir()
    subprocess.run(["mount", large, tmp_path / "mnt"], check=True)
    try:
        assert store.info().devices == (SIZES[0], SIZES[2])
        with pytest.raises(CheckFailed, match=r"free are: 16\.0 MiB, 16\.0 MiB"):
            store.create_disk(VM, disk(20 * MIB))
    finally:
        subprocess.run(["umount", tmp_path / "mnt"], check=True)
    assert store.create_disk(VM, disk(20 * MIB)) == large != small


async def test_a_vm_lives_on_a_device_and_sees_its_own_size_alone(devices: list[Path], tmp_path: Path) -> None:
    async with vm_host(tmp_path, [str(device) for device in devices]) as host:
        vm = thick_vm()
        await host.vms.define(vm)
        device = host.disk(vm)
        assert content(device, DISK_SIZE) == bytes(DISK_SIZE)  # nothing of what was there before
        with device.open("r+b") as file:
            file.write(write_boot_disk(tmp_path / "boot.raw").read_bytes())
            os.fsync(file.fileno())
        await host.vms.start(vm.uuid)
        await until_it_writes(device)
        monitor = host.vms.instance(vm.uuid).monitor
        assert (await named_nodes(monitor))["disk0"]["image"]["virtual-size"] == DISK_SIZE
        assert await current_files(monitor, vm) == {"root": device}
        await host.vms.kill(vm.uuid)
        assert (await host.vms.status(vm.uuid)).state is VmState.OFF
        assert content(device, device_size(device))[DISK_SIZE:] == b"\xee" * (device_size(device) - DISK_SIZE)
        await host.vms.delete(vm.uuid)
        assert host.stores["ds"].info().devices == tuple(sorted(SIZES))


async def test_a_start_without_the_device_says_which_is_missing(devices: list[Path], tmp_path: Path) -> None:
    async with vm_host(tmp_path, [str(device) for device in devices]) as host:
        vm = thick_vm()
        await host.vms.define(vm)
        claim = tmp_path / "ds" / str(vm.uuid) / "root.device"
        claim.write_text(claim.read_text().replace("/dev/loop", "/dev/loop-gone-"))
        with pytest.raises(NotFound, match="/dev/loop-gone-"):
            await host.vms.start(vm.uuid)
        await host.vms.delete(vm.uuid)


async def test_a_running_guest_goes_from_a_file_to_a_device(devices: list[Path], tmp_path: Path) -> None:
    async with machine(tmp_path / "s") as guest:
        await run_control.cont(guest.qemu.monitor)
        await until_it_writes(guest.disk)
        await run_control.stop(guest.qemu.monitor)
        with devices[1].open("r+b") as file:
            file.write(guest.disk.read_bytes())
            os.fsync(file.fileno())
        way = Pivot(guest.qemu, guest.definition, "disk0", devices[1], is_device=True)
        await way.prepare()
        await way.switch()
        assert await way.settle()
        await way.finish()
        await run_control.cont(guest.qemu.monitor)
        before = guest.disk.read_bytes()
        await until_it_writes(devices[1])
        assert await current_files(guest.qemu.monitor, guest.definition) == {"disk0": devices[1]}
        assert guest.disk.read_bytes() == before
