"""What a mirror of a real QEMU does: for each premise that the data mover rests on, the guest itself writes."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kvmove.errors import MoveFailed, QemuError, Unreachable
from kvmove.qemu import block_jobs, run_control
from kvmove.qemu.block_jobs import CopyMode, MirrorJob, MirrorSpec
from tests.support.boot_guest import DISK_SIZE
from tests.support.mirror_target import MirrorTarget
from tests.support.real_qemu import Machine, definition, machine, until, until_it_writes


@pytest.fixture
def target(tmp_path: Path) -> Iterator[MirrorTarget]:
    with MirrorTarget(tmp_path / "d0.sock", DISK_SIZE) as server:
        yield server


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Machine]:
    async with machine(tmp_path / "s") as started:
        yield started


async def running(source: Machine) -> None:
    await run_control.cont(source.qemu.monitor)
    await until_it_writes(source.disk)


BOTH_MODES = pytest.mark.parametrize("mode", CopyMode)


def mirror(of: Machine, to: MirrorTarget, number: int = 0, mode: CopyMode = CopyMode.WRITE_BLOCKING) -> MirrorJob:
    spec = MirrorSpec(of.qemu.disk_nodes[f"disk{number}"], to.size, to.path, to.export, number, mode)
    return MirrorJob(of.qemu.monitor, of.qemu.oob, spec)


async def sees(target: MirrorTarget, writes: int) -> None:
    await until(lambda: len(target.writes) >= writes, f"the target sees {writes} writes")


async def nodes_and_jobs(of: Machine) -> tuple[set[str], int]:
    """Names of the block nodes and the number of jobs: what a mirror must leave as it was."""
    nodes = await of.qemu.monitor.execute("query-named-block-nodes")
    return {node["node-name"] for node in nodes}, len(await of.qemu.monitor.execute("query-jobs"))


async def brings_all(source: Machine, target: MirrorTarget, job: MirrorJob) -> None:
    """From its start to its good end, with the guest stopped before."""
    await job.start()
    await job.drain()
    image = bytearray(source.disk.read_bytes())
    await sees(target, 200)
    await run_control.stop(source.qemu.monitor)
    await job.finish()
    target.apply_to(image)
    assert image == source.disk.read_bytes()


async def test_after_start_and_drain_every_write_reaches_the_target_in_order(
    source: Machine, target: MirrorTarget
) -> None:
    await running(source)
    await brings_all(source, target, mirror(source, target))
    counts = [int.from_bytes(payload[:4], "little") for _, payload in target.writes]
    assert counts == list(range(counts[0], counts[0] + len(counts)))


async def test_a_background_mirror_has_brought_every_write_when_it_has_ended(
    source: Machine, target: MirrorTarget
) -> None:
    await running(source)
    await brings_all(source, target, mirror(source, target, mode=CopyMode.BACKGROUND))


async def test_a_background_mirror_does_not_hold_the_guest(source: Machine, target: MirrorTarget) -> None:
    await running(source)
    job = mirror(source, target, mode=CopyMode.BACKGROUND)
    await job.start()
    await sees(target, 10)
    target.stalled = True
    await until(lambda: target.held() > 0, "a write waits for the target")
    await until_it_writes(source.disk)
    await job.abandon(target.hang_up)


async def test_a_good_end_leaves_node_and_job_lists_as_they_were(source: Machine, target: MirrorTarget) -> None:
    before = await nodes_and_jobs(source)
    job = mirror(source, target)
    await job.start()
    assert (await nodes_and_jobs(source))[1] == 1
    await job.finish()
    assert await nodes_and_jobs(source) == before


async def test_a_disk_under_a_mirror_is_not_resized(source: Machine, target: MirrorTarget) -> None:
    await running(source)
    job = mirror(source, target)
    await job.start()
    with pytest.raises(QemuError):
        node = source.qemu.disk_nodes["disk0"]
        await source.qemu.monitor.execute("block_resize", {"node-name": node, "size": 2 * DISK_SIZE})
    assert source.disk.stat().st_size == DISK_SIZE
    await sees(target, 20)
    await job.finish()


async def test_a_good_end_is_told_as_completed_not_cancelled(source: Machine, target: MirrorTarget) -> None:
    since = source.qemu.monitor.sequence
    job = mirror(source, target)
    await job.start()
    await job.finish()
    ended = await source.qemu.monitor.wait_event(("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED"), timeout=5, since=since)
    assert (ended.name, "error" in ended.data) == ("BLOCK_JOB_COMPLETED", False)


@BOTH_MODES
async def test_a_target_that_hangs_up_fails_the_job_and_the_guest_writes_on(
    source: Machine, target: MirrorTarget, mode: CopyMode
) -> None:
    await running(source)
    job = mirror(source, target, mode=mode)
    await job.start()
    await sees(target, 10)
    target.hang_up()
    await until(lambda: job.failure is not None, "the job fails")
    await until_it_writes(source.disk)
    with pytest.raises(MoveFailed):
        await job.finish()
    await job.abandon(target.hang_up)
    assert await source.run_state() == "running"
    await until_it_writes(source.disk)


@BOTH_MODES
async def test_a_busy_mirror_can_be_abandoned_and_begun_again(source: Machine, tmp_path: Path, mode: CopyMode) -> None:
    await running(source)
    before = await nodes_and_jobs(source)
    for _ in range(5):
        with MirrorTarget(tmp_path / "again.sock", DISK_SIZE) as target:
            job = mirror(source, target, mode=mode)
            await job.start()
            await job.drain()
            await sees(target, 20)
            await job.abandon(target.hang_up)
        assert await nodes_and_jobs(source) == before
        await until_it_writes(source.disk)


@BOTH_MODES
async def test_an_idle_mirror_can_be_abandoned(source: Machine, target: MirrorTarget, mode: CopyMode) -> None:
    before = await nodes_and_jobs(source)
    job = mirror(source, target, mode=mode)
    await job.start()
    await job.abandon(target.hang_up)
    assert await nodes_and_jobs(source) == before


@BOTH_MODES
async def test_a_target_that_stalls_hangs_qemu_until_it_hangs_up(
    source: Machine, target: MirrorTarget, mode: CopyMode
) -> None:
    await running(source)
    job = mirror(source, target, mode=mode)
    await job.start()
    target.stalled = True
    await until(lambda: target.held() > 0, "a write waits for the target")
    with pytest.raises(Unreachable):
        await job.drain(timeout=0.5)
    await job.abandon(target.hang_up)
    assert await source.run_state() == "running"
    await until_it_writes(source.disk)


async def test_a_stalled_target_that_nobody_can_close_is_yanked(source: Machine, target: MirrorTarget) -> None:
    await running(source)
    job = mirror(source, target)
    await job.start()
    target.stalled = True
    await until(lambda: target.held() > 0, "a write waits for the target")
    with pytest.raises(Unreachable):
        await block_jobs.drain(source.qemu.monitor, timeout=0.5)
    await job.abandon(lambda: None)
    assert await source.run_state() == "running"
    await until_it_writes(source.disk)


@BOTH_MODES
async def test_a_stalled_target_at_the_good_end_does_not_hang_us(
    source: Machine, target: MirrorTarget, mode: CopyMode
) -> None:
    await running(source)
    job = mirror(source, target, mode=mode)
    await job.start()
    target.stalled = True
    await until(lambda: target.held() > 0, "a write waits for the target")
    with pytest.raises((Unreachable, MoveFailed)):
        await job.finish(timeout=0.5)
    await job.abandon(target.hang_up)
    assert await source.run_state() == "running"


async def test_nobody_at_the_socket_fails_the_start_and_can_be_abandoned(source: Machine, tmp_path: Path) -> None:
    before = await nodes_and_jobs(source)
    job = MirrorJob(source.qemu.monitor, source.qemu.oob, MirrorSpec("disk0", DISK_SIZE, tmp_path / "nobody", "d0"))
    with pytest.raises(MoveFailed, match="No such file"):
        await job.start()
    await job.abandon(lambda: None)
    assert await nodes_and_jobs(source) == before


async def test_a_target_of_another_size_is_refused(source: Machine, tmp_path: Path) -> None:
    before = await nodes_and_jobs(source)
    with MirrorTarget(tmp_path / "small.sock", DISK_SIZE // 2) as target:
        job = mirror(source, target)
        with pytest.raises(MoveFailed, match="different sizes"):
            await job.start()
        await job.abandon(target.hang_up)
    assert await nodes_and_jobs(source) == before


async def test_one_drain_serves_the_mirrors_of_all_disks(tmp_path: Path) -> None:
    async with machine(tmp_path / "s", definition(disks=2)) as source:
        await running(source)
        with MirrorTarget(tmp_path / "0", DISK_SIZE) as first, MirrorTarget(tmp_path / "1", DISK_SIZE) as second:
            jobs = [mirror(source, first, 0), mirror(source, second, 1)]
            for job in jobs:
                await job.start()
            await block_jobs.drain(source.qemu.monitor)
            await sees(first, 10)
            await run_control.stop(source.qemu.monitor)
            for job in jobs:
                await job.finish()
            assert second.writes == []
