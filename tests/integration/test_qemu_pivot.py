"""A disk's device goes from image to image in a real QEMU, under a guest that writes as fast as it can."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from kvmove.errors import MoveFailed, QemuError
from kvmove.qemu import run_control
from kvmove.qemu.block_jobs import MirrorJob, MirrorSpec, drain
from kvmove.qemu.disk_nodes import current_files, named_nodes
from kvmove.qemu.migration import MigrationParameters, Status
from kvmove.qemu.pivot import Pivot
from tests.support.boot_guest import DISK_SIZE, FIRST_SECTOR, SECTOR, SECTORS, highest_count
from tests.support.file_locks import is_locked, locked
from tests.support.mirror_target import MirrorTarget
from tests.support.real_qemu import PATIENCE, Machine, adopted, definition, discard, machine, until, until_it_writes

DEVICE = "/machine/peripheral/vd0/virtio-backend"


@pytest.fixture
async def guest(tmp_path: Path) -> AsyncIterator[Machine]:
    """A guest that runs and writes."""
    async with machine(tmp_path / "s") as started:
        await run_control.cont(started.qemu.monitor)
        await until_it_writes(started.disk)
        yield started


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """An empty image, with a name that QEMU could take for something else than a path."""
    return empty(tmp_path / "nbd:new,format=qcow2.raw")


def empty(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(DISK_SIZE)
    return path


def content(disk: Path) -> bytes:
    return disk.read_bytes()


def fill(disk: Path, data: bytes | bytearray) -> None:
    disk.write_bytes(data)


def space(disk: Path) -> int:
    """Bytes that the file takes."""
    return disk.stat().st_blocks * 512


def pivot(of: Machine, to: Path, disk: str = "disk0") -> Pivot:
    return Pivot(of.qemu, of.definition, disk, to)


async def node_names(of: Machine) -> set[str]:
    return set(await named_nodes(of.qemu.monitor))


async def file_of(of: Machine, disk: str = "disk0") -> Path:
    return (await current_files(of.qemu.monitor, of.definition))[disk]


async def stand_still_with(of: Machine, new: Path) -> None:
    """Stop the guest and make `new` equal to the image it is on."""
    await run_control.stop(of.qemu.monitor)
    fill(new, content(await file_of(of)))


async def goes_on(of: Machine, disk: Path, other: Path) -> None:
    """The guest runs, writes to `disk` and no longer to `other`."""
    await run_control.cont(of.qemu.monitor)
    before = content(other)
    await until_it_writes(disk)
    assert await file_of(of) == disk
    assert content(other) == before
    assert await of.qemu.monitor.execute("query-jobs") == []


def lacks_no_write(disk: Path) -> bool:
    """Whether the guest's last counts are all there; it wrote each to the sector after the last one's."""
    data = disk.read_bytes()
    offsets = range(FIRST_SECTOR * SECTOR, (FIRST_SECTOR + SECTORS) * SECTOR, SECTOR)
    counts = sorted(int.from_bytes(data[at : at + 4], "little") for at in offsets)
    return counts == list(range(counts[-1] - SECTORS + 1, counts[-1] + 1))


@contextmanager
def target(at: Path) -> Iterator[MirrorTarget]:
    with MirrorTarget(at / "mirror.sock", DISK_SIZE) as server:
        yield server


def mirror(of: Machine, to: MirrorTarget, disk: str = "disk0") -> MirrorJob:
    spec = MirrorSpec(of.qemu.disk_nodes[disk], to.size, to.path, to.export)
    return MirrorJob(of.qemu.monitor, of.qemu.oob, spec)


async def storage_move(of: Machine, new: Path, at: Path) -> None:
    """All of it: mirror, copy, switch, finish."""
    old, way = await file_of(of), pivot(of, new)
    with target(at) as writes:
        job = mirror(of, writes)
        await job.start()
        await drain(of.qemu.monitor)
        image = bytearray(content(old))
        await way.prepare()
        await until(lambda: len(writes.writes) > 50, "the guest writes past the copy")
        await run_control.stop(of.qemu.monitor)
        await job.finish()
        writes.apply_to(image)
    fill(new, image)
    await way.switch()
    assert content(new) == content(old)
    await goes_on(of, new, old)
    await way.finish()
    assert is_locked(new)
    assert not is_locked(old)


async def test_a_disk_goes_there_and_back_three_times_under_writes(guest: Machine, new: Path, tmp_path: Path) -> None:
    first = {"disk0", "disk0-file"}
    for _ in range(3):
        await storage_move(guest, new, tmp_path)
        assert await node_names(guest) == {"disk0-alt", "disk0-alt-file"}
        assert guest.qemu.disk_nodes == {"disk0": "disk0-alt"}
        await storage_move(guest, guest.disk, tmp_path)
        assert await node_names(guest) == first
        assert guest.qemu.disk_nodes == {"disk0": "disk0"}
    last = await until_it_writes(guest.disk)
    await until_it_writes(guest.disk, last + SECTORS)
    await run_control.stop(guest.qemu.monitor)
    assert lacks_no_write(guest.disk)


@pytest.mark.parametrize("cache", ["none", "writeback"])
async def test_nothing_of_the_disk_changes_but_its_file(
    tmp_path: Path, new: Path, cache: Literal["none", "writeback"]
) -> None:
    vm = definition()
    vm = vm.model_copy(update={"disks": (vm.disks[0].model_copy(update={"cache": cache}),)})
    async with machine(tmp_path / "s", vm) as guest:

        async def options() -> dict[str, Any]:
            """What QEMU says of the device and the nodes under it, without names."""
            nodes = await named_nodes(guest.qemu.monitor)
            under = [node for node in nodes.values() if node["file"] == str(device["inserted"]["file"])]
            varying = ("node-name", "file", "image")
            return {n["drv"]: {k: v for k, v in n.items() if k not in varying} for n in under}

        (device,) = await guest.qemu.monitor.execute("query-block")
        before = await options()
        assert set(before) == {"raw", "file"}
        assert before["raw"]["cache"]["direct"] is (cache == "none")
        way = pivot(guest, new)
        await way.prepare()
        await stand_still_with(guest, new)
        await way.switch()
        (device,) = await guest.qemu.monitor.execute("query-block")
        assert await options() == before
        assert before["raw"]["ro"] is False


async def test_the_guest_can_free_space_of_the_new_image(tmp_path: Path, new: Path) -> None:
    async with machine(tmp_path / "s") as guest:
        await stand_still_with(guest, new)
        way = pivot(guest, new)
        await way.prepare()
        await way.switch()
        await way.finish()
        assert space(new) >= DISK_SIZE
        discard_half = {"command-line": f'qemu-io -d {DEVICE} "discard 4M 4M"'}
        await guest.qemu.monitor.execute("human-monitor-command", discard_half)
        assert space(new) <= DISK_SIZE // 2 + 64 * 1024


async def test_a_new_image_is_not_locked_until_the_switch_and_can_be_given_up(guest: Machine, new: Path) -> None:
    before = await node_names(guest)
    way = pivot(guest, new)
    await way.prepare()
    assert not is_locked(new)
    await way.abandon()
    assert await node_names(guest) == before
    await goes_on(guest, guest.disk, new)
    await way.abandon()


async def test_every_step_may_be_asked_for_again(guest: Machine, new: Path) -> None:
    way = pivot(guest, new)
    await way.prepare()
    await way.prepare()
    await stand_still_with(guest, new)
    await way.switch()
    await way.switch()
    await way.prepare()
    await goes_on(guest, new, guest.disk)
    await way.switch()
    await way.finish()
    await way.finish()
    assert await node_names(guest) == {"disk0-alt", "disk0-alt-file"}


async def test_another_new_image_replaces_the_one_that_was_prepared(guest: Machine, new: Path, tmp_path: Path) -> None:
    await pivot(guest, empty(tmp_path / "forgotten.raw")).prepare()
    way = pivot(guest, new)
    await way.prepare()
    await stand_still_with(guest, new)
    await way.switch()
    await goes_on(guest, new, guest.disk)


# What is refused leaves the guest on the old image.


async def refused(of: Machine, new: Path, step: Callable[[], Awaitable[None]], words: str) -> None:
    with pytest.raises(MoveFailed, match=words):
        await step()
    await goes_on(of, of.disk, new)


async def test_an_image_that_is_locked_is_refused_and_taken_when_it_is_free(guest: Machine, new: Path) -> None:
    way = pivot(guest, new)
    await way.prepare()
    await stand_still_with(guest, new)
    with locked(new):
        await refused(guest, new, way.switch, "lock")
    await stand_still_with(guest, new)
    await way.switch()
    await goes_on(guest, new, guest.disk)


async def test_an_error_on_the_new_image_ends_the_switch_alone(guest: Machine, new: Path) -> None:
    way = pivot(guest, new)
    await way.prepare()
    for name in ("disk0-alt", "disk0-alt-file"):
        await guest.qemu.monitor.execute("blockdev-del", {"node-name": name})
    broken = {
        "driver": "blkdebug",
        "node-name": "disk0-alt-file",
        "image": {"driver": "file", "filename": str(new)},
        "inject-error": [{"event": "none", "iotype": "flush"}],
    }
    await guest.qemu.monitor.execute("blockdev-add", broken)
    image = {"driver": "raw", "node-name": "disk0-alt", "file": "disk0-alt-file"}
    await guest.qemu.monitor.execute("blockdev-add", image)
    await stand_still_with(guest, new)
    dirty = {"command-line": 'qemu-io disk0-alt "write 0 512"'}  # QEMU flushes only what was written
    await guest.qemu.monitor.execute("human-monitor-command", dirty)
    await refused(guest, new, way.switch, "Input/output error")
    await way.abandon()
    assert await node_names(guest) == {"disk0", "disk0-file"}
    assert not is_locked(new)


async def test_a_guest_that_runs_is_not_switched(guest: Machine, new: Path) -> None:
    way = pivot(guest, new)
    await way.prepare()
    await refused(guest, new, way.switch, "runs")


async def test_nothing_is_switched_under_our_mirror(guest: Machine, new: Path, tmp_path: Path) -> None:
    with target(tmp_path) as writes:
        job = mirror(guest, writes)
        await job.start()
        way = pivot(guest, new)
        await way.prepare()
        await run_control.stop(guest.qemu.monitor)
        with pytest.raises(QemuError, match="root block node"):
            await way.switch()
        assert await file_of(guest) == guest.disk
        await job.finish()
    await goes_on(guest, guest.disk, new)


async def test_what_was_not_prepared_is_not_switched(guest: Machine, new: Path) -> None:
    await run_control.stop(guest.qemu.monitor)
    await refused(guest, new, pivot(guest, new).switch, "disk0-alt")


@pytest.mark.parametrize("size", [0, DISK_SIZE // 2, DISK_SIZE * 2])
async def test_an_image_of_another_size_is_refused_before_the_guest_stops(guest: Machine, new: Path, size: int) -> None:
    with new.open("r+b") as file:
        file.truncate(size)
    way = pivot(guest, new)
    await refused(guest, new, way.prepare, f"has {size} bytes")
    await way.abandon()
    assert await node_names(guest) == {"disk0", "disk0-file"}


async def test_a_missing_image_is_refused_before_the_guest_stops(guest: Machine, new: Path, tmp_path: Path) -> None:
    way = pivot(guest, tmp_path / "absent.raw")
    await refused(guest, new, way.prepare, "No such file")
    await way.abandon()


async def test_the_image_in_use_is_neither_given_up_nor_taken_for_the_old_one(guest: Machine, new: Path) -> None:
    way = pivot(guest, new)
    await way.prepare()
    with pytest.raises(MoveFailed):
        await way.finish()
    await stand_still_with(guest, new)
    await way.switch()
    with pytest.raises(MoveFailed):
        await way.abandon()
    await goes_on(guest, new, guest.disk)


# Several disks.


async def test_a_disk_is_switched_back_when_the_next_one_cannot_follow(tmp_path: Path, new: Path) -> None:
    async with machine(tmp_path / "s", definition(disks=2)) as guest:
        await run_control.cont(guest.qemu.monitor)
        await until_it_writes(guest.disk)
        second = empty(tmp_path / "second.raw")
        ways = [pivot(guest, new, "disk0"), pivot(guest, second, "disk1")]
        for way in ways:
            await way.prepare()
        await stand_still_with(guest, new)
        await ways[0].switch()
        with locked(second), pytest.raises(MoveFailed):
            await ways[1].switch()
        for way in ways:
            await way.switch_back()
            await way.switch_back()
            await way.abandon()
        assert await node_names(guest) == {"disk0", "disk0-file", "disk1", "disk1-file"}
        assert not is_locked(new)
        assert await file_of(guest, "disk1") != second
        await goes_on(guest, guest.disk, new)


async def test_a_switch_and_a_mirror_of_another_disk_do_not_take_each_others_events(tmp_path: Path, new: Path) -> None:
    async with machine(tmp_path / "s", definition(disks=2)) as guest:
        with target(tmp_path) as writes:
            job = mirror(guest, writes, "disk1")
            await job.start()
            way = pivot(guest, new, "disk0")
            await way.prepare()
            with locked(new), pytest.raises(MoveFailed):
                await way.switch()
            await way.switch()
            assert await file_of(guest, "disk0") == new
            assert job.failure is None
            await job.finish()


# An agent that was restarted.


async def restarted(of: Machine) -> Machine:
    await of.qemu.disconnect()
    return of._replace(qemu=await adopted(of.definition, of.paths))


async def begin_by_hand(of: Machine, *, completed: bool) -> None:
    """What a switch does, up to the moment at which the agent died."""
    arguments = {"job-id": "pivot-job0", "device": "disk0", "target": "disk0-alt", "filter-node-name": "pivot-filter0"}
    arguments |= {"sync": "none", "copy-mode": "write-blocking"}
    monitor = of.qemu.monitor
    since = monitor.sequence
    await monitor.execute("blockdev-mirror", {**arguments, "auto-dismiss": False})
    await monitor.wait_event("BLOCK_JOB_READY", timeout=10, since=since)
    if completed:
        await monitor.execute("job-complete", {"id": "pivot-job0"})


@pytest.mark.parametrize("completed", [False, True])
async def test_an_agent_that_died_in_the_switch_learns_how_it_ended_and_can_go_on(
    guest: Machine, new: Path, completed: bool
) -> None:
    await pivot(guest, new).prepare()
    await stand_still_with(guest, new)
    await begin_by_hand(guest, completed=completed)
    again = await restarted(guest)
    try:
        way = pivot(again, new)
        assert again.qemu.disk_nodes["disk0"] in ("disk0", "disk0-alt")
        assert await way.settle() is completed
        assert await file_of(again) == (new if completed else guest.disk)
        await way.switch()
        await goes_on(again, new, guest.disk)
        await way.finish()
        assert await node_names(again) == {"disk0-alt", "disk0-alt-file"}
    finally:
        await discard(again.qemu)


async def die_in(step: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Begin a step and hear no more of it after a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await step()


async def test_an_agent_may_die_at_any_moment_of_a_switch(guest: Machine, new: Path) -> None:
    images = [guest.disk, new]
    again = guest
    try:
        for milliseconds in range(0, 24, 2):
            way = pivot(again, images[1])
            await way.prepare()
            await stand_still_with(again, images[1])
            await die_in(way.switch, milliseconds / 1000)
            again = await restarted(again)
            way = pivot(again, images[1])
            if await way.settle():
                images.reverse()
                await goes_on(again, *images)
                await way.finish()
            else:
                await goes_on(again, *images)
                await way.abandon()
            assert len(await node_names(again)) == 2
            assert [is_locked(image) for image in images] == [True, False]
    finally:
        await discard(again.qemu)


async def test_an_agent_that_died_in_the_switch_can_give_it_up(guest: Machine, new: Path) -> None:
    await pivot(guest, new).prepare()
    await stand_still_with(guest, new)
    await begin_by_hand(guest, completed=False)
    again = await restarted(guest)
    try:
        assert again.qemu.disk_nodes == {"disk0": "disk0"}
        await pivot(again, new).abandon()
        assert await node_names(again) == {"disk0", "disk0-file"}
        await goes_on(again, guest.disk, new)
    finally:
        await discard(again.qemu)


async def test_a_moved_disk_is_known_to_an_agent_that_comes_later(guest: Machine, new: Path, tmp_path: Path) -> None:
    await storage_move(guest, new, tmp_path)
    again = await restarted(guest)
    try:
        assert again.qemu.disk_nodes == {"disk0": "disk0-alt"}
        await storage_move(again, guest.disk, tmp_path)
        assert again.qemu.disk_nodes == {"disk0": "disk0"}
    finally:
        await discard(again.qemu)


async def test_a_mirror_under_way_is_seen_through_by_an_agent_that_comes_later(guest: Machine, tmp_path: Path) -> None:
    with target(tmp_path) as writes:
        await mirror(guest, writes).start()
        again = await restarted(guest)
        try:
            assert again.qemu.disk_nodes == {"disk0": "disk0"}
            assert await file_of(again) == guest.disk
            await mirror(again, writes).abandon(writes.hang_up)
        finally:
            await discard(again.qemu)


async def test_a_disk_that_was_changed_by_hand_is_not_guessed_about(guest: Machine, new: Path) -> None:
    add = {"driver": "file", "node-name": "foreign", "filename": str(new)}
    await guest.qemu.monitor.execute("blockdev-add", add)
    await run_control.stop(guest.qemu.monitor)
    change = {"path": "/machine/peripheral/vd0", "property": "drive", "value": "foreign"}
    await guest.qemu.monitor.execute("qom-set", change)
    with pytest.raises(MoveFailed, match="foreign"):
        await file_of(guest)


async def test_a_guest_whose_disk_was_moved_can_move_to_another_host(guest: Machine, new: Path, tmp_path: Path) -> None:
    await storage_move(guest, new, tmp_path)
    async with machine(tmp_path / "d", guest.definition, incoming=True) as destination:
        there, here = await guest.migration(), await destination.migration()
        await here.configure_destination(0)
        await there.configure_source(0, MigrationParameters(max_bandwidth=0, downtime_limit_ms=300))
        await here.incoming(f"unix:{tmp_path}/in")
        await there.migrate(f"unix:{tmp_path}/in")
        await there.wait_status([Status.PRE_SWITCHOVER], timeout=PATIENCE)
        last = highest_count(new)
        await there.continue_switchover()
        await there.wait_status([Status.COMPLETED], timeout=PATIENCE)
        await here.wait_status([Status.COMPLETED], timeout=PATIENCE)
        await run_control.cont(destination.qemu.monitor)
        assert await until_it_writes(destination.disk) > last
        assert destination.qemu.disk_nodes == {"disk0": "disk0"}
