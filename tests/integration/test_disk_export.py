"""A running guest's disks read through its own QEMU, with all that a move does to it going on at the same time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kvmove.disk.digest import content_digest, disk_digest
from kvmove.disk.errors import DiskError
from kvmove.disk.nbd_disk import NbdSource, NbdTarget
from kvmove.disk.offload import Offload
from kvmove.disk.qcow2 import Layer, create, describe
from kvmove.errors import QemuError
from kvmove.model.vm import DiskFormat
from kvmove.qemu import run_control
from kvmove.qemu.block_jobs import MirrorJob, MirrorSpec
from kvmove.qemu.disk_export import DiskExports
from kvmove.qemu.migration import MigrationParameters, Status
from kvmove.qemu.storage_daemon import StorageDaemon
from tests.support.boot_guest import DISK_SIZE
from tests.support.file_locks import is_locked
from tests.support.images import check, content
from tests.support.mirror_target import MirrorTarget
from tests.support.real_qemu import (
    PATIENCE,
    Machine,
    adopted,
    definition,
    discard,
    machine,
    pair,
    until,
    until_it_writes,
    until_state,
)


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Machine]:
    async with machine(tmp_path / "s", definition(disks=2)) as started:
        await run_control.cont(started.qemu.monitor)
        await until_it_writes(started.disk)
        yield started


def exports(of: Machine) -> DiskExports:
    return DiskExports(of.qemu.monitor, of.paths.folder / "disks.sock")


def mirror(of: Machine, to: MirrorTarget) -> MirrorJob:
    spec = MirrorSpec(of.qemu.disk_nodes["disk0"], to.size, to.path, to.export)
    return MirrorJob(of.qemu.monitor, of.qemu.oob, spec)


def whole(of: Machine) -> bytearray:
    content = bytearray(DISK_SIZE)
    with NbdSource(of.disk, of.paths.folder / "disks.sock", "disk0") as disk:
        for extent in disk.extents(0, disk.size):
            if extent.is_data:
                disk.read_into(memoryview(content)[extent.offset : extent.offset + extent.length], extent.offset)
    return content


async def is_clean(of: Machine) -> bool:
    """No export, no server, no socket, and the nodes as they were at the start."""
    there = await of.qemu.monitor.execute("query-block-exports")
    nodes = await of.qemu.monitor.execute("query-named-block-nodes")
    return not there and not (of.paths.folder / "disks.sock").exists() and len(nodes) == 4


async def test_a_copy_by_bulk_and_mirror_is_right_while_the_guest_writes(source: Machine, tmp_path: Path) -> None:
    """The export before the mirror starts and after it ended: neither notices the other."""
    export = exports(source)
    await export.start(source.qemu.disk_nodes)
    with MirrorTarget(tmp_path / "mirror", DISK_SIZE) as target:
        job = mirror(source, target)
        await job.start()
        await job.drain()
        image = await asyncio.to_thread(whole, source)
        await until(lambda: len(target.writes) >= 200, "the mirror sees writes")
        assert (await source.qemu.look_at_disks(source.definition))["disk0"].node == source.qemu.disk_nodes["disk0"]
        await run_control.stop(source.qemu.monitor)
        await job.finish()
        target.apply_to(image)
    assert image == source.disk.read_bytes() == await asyncio.to_thread(whole, source)
    await run_control.cont(source.qemu.monitor)
    await export.end()
    assert await is_clean(source)
    await until_it_writes(source.disk)


async def test_an_export_that_begins_on_a_mirror_can_end_under_it(source: Machine, tmp_path: Path) -> None:
    export = exports(source)
    with MirrorTarget(tmp_path / "mirror", DISK_SIZE) as target:
        job = mirror(source, target)
        await job.start()
        await job.drain()
        await export.start(source.qemu.disk_nodes)
        await asyncio.to_thread(whole, source)
        await export.end()
        seen = len(target.writes)
        await until(lambda: len(target.writes) > seen, "the mirror goes on")
        await run_control.stop(source.qemu.monitor)
        await job.finish()
    assert await is_clean(source)


async def test_every_disk_has_its_export_and_nobody_may_write(source: Machine) -> None:
    export = exports(source)
    await export.start(source.qemu.disk_nodes)
    await run_control.stop(source.qemu.monitor)
    for name in ("disk0", "disk1"):
        file = source.disk.with_name(f"{name}.raw")
        with NbdSource(file, export.socket, name, top_only=True) as disk:
            assert disk.size == DISK_SIZE
        with NbdSource(file, export.socket, name) as disk:
            assert await asyncio.to_thread(content_digest, disk) == disk_digest(file)
    described = await source.qemu.monitor.execute("query-block-exports")
    assert {one["node-name"] for one in described} == set(source.qemu.disk_nodes.values())
    await export.end()
    with pytest.raises(DiskError, match="No such file"):
        NbdSource(source.disk, export.socket, "disk0")


async def test_ending_cuts_who_reads_and_may_be_done_again(source: Machine) -> None:
    export = exports(source)
    await export.end()
    await export.start(source.qemu.disk_nodes)
    with NbdSource(source.disk, export.socket, "disk0") as reader:
        await export.end()
        assert await is_clean(source)
        with pytest.raises(DiskError, match="the NBD server of disk0"):
            await asyncio.to_thread(reader.read_into, memoryview(bytearray(512)), 0)
    await export.end()
    assert await is_clean(source)


async def test_an_agent_that_comes_back_takes_down_what_it_finds(source: Machine) -> None:
    await exports(source).start(source.qemu.disk_nodes)
    await source.qemu.disconnect()
    again = await adopted(source.definition, source.paths)
    try:
        anew = DiskExports(again.monitor, source.paths.folder / "disks.sock")
        await anew.start(again.disk_nodes)
        assert len(await again.monitor.execute("query-block-exports")) == 2
        assert len(await asyncio.to_thread(whole, source)) == DISK_SIZE
        await anew.end()
        assert await again.monitor.execute("query-block-exports") == []
    finally:
        await again.end()


async def test_a_start_that_fails_in_the_middle_can_be_undone(source: Machine) -> None:
    export = exports(source)
    with pytest.raises(QemuError):
        await export.start({"disk0": source.qemu.disk_nodes["disk0"], "disk1": "no-such-node"})
    await export.end()
    assert await is_clean(source)


async def test_a_migration_goes_past_an_export_and_back(tmp_path: Path) -> None:
    """The source's images are handed over under it, and taken back: the guest goes on at the source."""
    async with pair(tmp_path) as (source, destination):
        await run_control.cont(source.qemu.monitor)
        await until_it_writes(source.disk)
        export = exports(source)
        await export.start(source.qemu.disk_nodes)
        socket = f"unix:{tmp_path / 'in'}"
        there, here = await source.migration(), await destination.migration()
        await here.configure_destination(0)
        await there.configure_source(0, MigrationParameters(max_bandwidth=0, downtime_limit_ms=300))
        await here.incoming(socket)
        await there.migrate(socket)
        await there.wait_status([Status.PRE_SWITCHOVER], timeout=PATIENCE)
        await there.continue_switchover()
        await there.wait_status([Status.COMPLETED], timeout=PATIENCE)
        await here.wait_status([Status.COMPLETED], timeout=PATIENCE)
        await until_state(source, run_control.POSTMIGRATE)
        assert not is_locked(source.disk)
        await export.end()
        assert await source.qemu.monitor.execute("query-block-exports") == []
        await discard(destination.qemu)
        await run_control.cont(source.qemu.monitor)
        await until_it_writes(source.disk)


async def test_the_top_of_a_running_guests_chain_is_copied_onto_another_copy_of_its_base(tmp_path: Path) -> None:
    """A qcow2 guest, as a move does it: base first, then the top by bulk and mirror, all through QEMU."""
    vm = definition(disk_format=DiskFormat.QCOW2)
    async with machine(tmp_path / "s", vm) as source, AsyncExitStack() as stack:
        top = source.disk
        base = top.with_suffix(".raw")
        await run_control.cont(source.qemu.monitor)
        copy = tmp_path / "copy.qcow2"
        create(copy, DISK_SIZE, like=describe(top, DiskFormat.QCOW2), backing=Layer(base, DiskFormat.RAW))
        daemon = await StorageDaemon.start(vm.disks[0], copy, tmp_path / "nbd" / "copy", writable=True)
        stack.push_async_callback(daemon.end)
        target = stack.enter_context(NbdTarget(copy, daemon.socket, "disk0"))
        export = exports(source)
        await export.start(source.qemu.disk_nodes)
        mirrored = stack.enter_context(MirrorTarget(tmp_path / "mirror", DISK_SIZE))
        job = mirror(source, mirrored)
        await job.start()
        await job.drain()
        await until(lambda: len(mirrored.writes) >= 50, "the guest writes")
        with NbdSource(top, export.socket, "disk0", top_only=True) as disk:
            found = await asyncio.to_thread(list, disk.extents(0, DISK_SIZE))
            for extent in found:
                await asyncio.to_thread(Offload(disk, target).move, extent.offset, extent.length, untouched=False)
        assert 0 < sum(extent.length for extent in found) < DISK_SIZE // 4, "the base is left out"
        await until(lambda: len(mirrored.writes) >= 200, "the guest writes on")
        await run_control.stop(source.qemu.monitor)
        await job.finish()
        for offset, payload in mirrored.writes:
            target.write_at(offset, payload)
        target.sync()
        target.close()
        await daemon.end()
        await export.end()
        await source.qemu.end()
        assert content(copy, "qcow2") == content(top, "qcow2") != base.read_bytes()
        check(copy)
