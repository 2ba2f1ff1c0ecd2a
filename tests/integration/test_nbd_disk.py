"""Images written and read through a real storage daemon: every byte, every hole, and what happens when it dies."""

import asyncio
import contextlib
import errno
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kvmove.disk import qcow2
from kvmove.disk.digest import content_digest, disk_digest
from kvmove.disk.errors import DiskError
from kvmove.disk.extents import Extent
from kvmove.disk.nbd_disk import NbdSource, NbdTarget
from kvmove.disk.offload import Offload, Rung
from kvmove.disk.qcow2 import Layer
from kvmove.disk.raw_file import RawFile, aligned_buffer
from kvmove.disk.raw_target import RawTarget
from kvmove.errors import MoveFailed
from kvmove.model.vm import DiskDefinition, DiskFormat
from kvmove.qemu.storage_daemon import StorageDaemon
from kvmove.units import KIB, MIB
from tests.support.eventually import eventually
from tests.support.file_locks import is_locked
from tests.support.file_systems import mounted
from tests.support.images import allocated, check, content

SIZE = 64 * MIB + 4096
PATTERNS = 400


def disk(size: int = SIZE, image_format: DiskFormat = DiskFormat.QCOW2) -> DiskDefinition:
    return DiskDefinition(name="root", datastore="ds", size=size, format=image_format)


@asynccontextmanager
async def daemon(
    image: Path, *, writable: bool = True, image_format: DiskFormat = DiskFormat.QCOW2
) -> AsyncIterator[StorageDaemon]:
    socket = image.parent / "nbd" / "root.sock"
    started = await StorageDaemon.start(disk(image_format=image_format), image, socket, writable=writable)
    try:
        yield started
    finally:
        if started.is_alive():
            await started.end()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "root.qcow2"
    qcow2.create(path, SIZE)
    return path


def scribble(target: NbdTarget | RawTarget, model: bytearray, seed: int) -> None:
    """The same random writes to a disk and to its model: of any alignment, overlapping, zeroes too."""
    chance = random.Random(seed)
    for _ in range(PATTERNS):
        length = chance.choice([1, 512, 4096, 5000, 65536, 300_000])
        offset = chance.randrange(0, SIZE - length + 1)
        if chance.random() < 0.3:
            target.write_zeroes(offset, length)
            model[offset : offset + length] = bytes(length)
        else:
            data = chance.randbytes(length)
            target.write_at(offset, memoryview(data))
            model[offset : offset + length] = data


def assembled(source: NbdSource, below: bytes = b"") -> bytes:
    """What a reader who trusts the extents gets; gaps come from `below`."""
    found = bytearray(below or bytes(source.size))
    at = 0
    for extent in source.extents(0, source.size):
        assert extent.offset == at or below, "no gaps"
        at = extent.offset + extent.length
        if extent.is_data:
            source.read_into(memoryview(found)[extent.offset : at], extent.offset)
        else:
            found[extent.offset : at] = bytes(extent.length)
    assert at == source.size or below
    return bytes(found)


@pytest.mark.parametrize("image_format", list(DiskFormat))
@pytest.mark.parametrize("thick", [False, True])
async def test_what_was_written_is_read_by_us_and_by_qemu_img(
    tmp_path: Path, image_format: DiskFormat, thick: bool
) -> None:
    path = tmp_path / "root.img"
    if image_format is DiskFormat.QCOW2:
        qcow2.create(path, SIZE, thick=thick)
    else:
        RawTarget.create(path, SIZE).close()
    model = bytearray(SIZE)
    async with daemon(path, image_format=image_format) as served:
        with NbdTarget(path, served.socket, "root", thick=thick) as target:
            assert target.size == SIZE
            await asyncio.to_thread(scribble, target, model, 1)
            target.sync()
            target.sync_folder()
        with NbdSource(path, served.socket, "root") as source:
            assert await asyncio.to_thread(assembled, source) == model
            odd = bytearray(70_001)
            source.read_into(memoryview(odd), 12345)
            assert odd == model[12345 : 12345 + 70_001]
        assert is_locked(path)
        assert served.socket.parent.stat().st_mode & 0o777 == 0o700
        await served.end()
        await served.end()
    assert not is_locked(path)
    assert list(served.socket.parent.iterdir()) == []
    assert content(path, image_format) == model
    if image_format is DiskFormat.QCOW2:
        check(path)
        assert (allocated(path) >= SIZE) == thick


async def test_zeroes_give_their_space_back_unless_the_disk_is_thick(tmp_path: Path) -> None:
    for thick in (False, True):
        path = tmp_path / f"{thick}.qcow2"
        qcow2.create(path, SIZE, thick=thick)
        async with daemon(path) as served:
            with NbdTarget(path, served.socket, "root", thick=thick) as target:
                target.write_at(0, os.urandom(16 * MIB))
                target.sync()
                before = allocated(path)
                target.write_zeroes(0, 16 * MIB)
                target.sync()
        assert before - allocated(path) >= (0 if thick else 16 * MIB - 128 * KIB)
        assert allocated(path) >= SIZE if thick else allocated(path) < MIB


async def test_a_raw_disk_and_a_qcow2_image_of_it_have_one_digest(image: Path, tmp_path: Path) -> None:
    """An offload between two that are not both files reads and writes; holes are no range to move."""
    raw = tmp_path / "root.raw"
    with RawTarget.create(raw, SIZE) as target:
        scribble(target, bytearray(SIZE), 2)
    async with daemon(image) as served:
        with RawFile(raw, direct=True) as source, NbdTarget(image, served.socket, "root") as target_image:
            offload = Offload(source, target_image)
            for extent in source.extents(0, SIZE):
                if extent.is_data:
                    await asyncio.to_thread(offload.move, extent.offset, extent.length, untouched=True)
            offload.sync()
            assert offload.moved[Rung.READ_WRITE] == sum(offload.moved.values()) > 0
        with NbdSource(image, served.socket, "root") as copy:
            assert await asyncio.to_thread(content_digest, copy) == disk_digest(raw)
            with RawTarget.create(tmp_path / "back.raw", SIZE) as back:
                offload = Offload(copy, back)
                for extent in copy.extents(0, SIZE):
                    if extent.is_data:
                        await asyncio.to_thread(offload.move, extent.offset, extent.length, untouched=True)
    assert disk_digest(tmp_path / "back.raw") == disk_digest(raw)


@pytest.fixture(params=["here", "xfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on whatever the tests run on, and one on XFS, where QEMU would ask for 1 MiB at a time."""
    if request.param == "here":
        yield tmp_path
        return
    with mounted("xfs", tmp_path, 600 * MIB) as path:
        yield path


@pytest.mark.lab
@pytest.mark.full
async def test_a_disk_of_scattered_writes_takes_no_more_space_than_a_raw_one(folder: Path) -> None:
    size, writes = 1024 * MIB, 30_000
    raw, image = folder / "root.raw", folder / "root.qcow2"
    qcow2.create(image, size)
    places = random.Random(3).sample(range(size // 4096), writes)
    block = aligned_buffer(4096)
    block[:] = os.urandom(4096)

    def write(target: RawTarget | NbdTarget) -> None:
        for place in places:
            target.write_at(place * 4096, block)
        target.sync()

    async with daemon(image) as served:
        with NbdTarget(image, served.socket, "root") as target:
            await asyncio.to_thread(write, target)
        with NbdSource(image, served.socket, "root") as source:
            found = [extent async for extent in _in_thread(source)]
            assert sum(extent.length for extent in found if extent.is_data) == writes * 4096
    with RawTarget.create(raw, size) as plain:
        write(plain)
    assert allocated(image) <= 1.01 * allocated(raw)


async def _in_thread(source: NbdSource) -> AsyncIterator[Extent]:
    for extent in await asyncio.to_thread(list, source.extents(0, source.size)):
        yield extent


async def test_of_a_chain_the_top_alone_is_told_and_zeroes_in_it_are_holes(tmp_path: Path) -> None:
    """Data below, in the top, in both, and zeroes in the top over data below: a copy on the same base is equal."""
    base, top, copy = tmp_path / "base.qcow2", tmp_path / "top.qcow2", tmp_path / "copy.qcow2"
    qcow2.create(base, SIZE)
    async with daemon(base) as served:
        with NbdTarget(base, served.socket, "root") as target:
            await asyncio.to_thread(scribble, target, bytearray(SIZE), 4)
            target.write_at(8 * MIB, os.urandom(MIB))
    below = content(base, "qcow2")
    for path in (top, copy):
        qcow2.create(path, SIZE, backing=Layer(base, DiskFormat.QCOW2))
    model = bytearray(below)
    async with daemon(top) as served:
        with NbdTarget(top, served.socket, "root") as target:
            await asyncio.to_thread(scribble, target, model, 5)
            target.write_zeroes(8 * MIB, MIB // 2)
            model[8 * MIB : 8 * MIB + MIB // 2] = bytes(MIB // 2)
        with NbdSource(top, served.socket, "root", top_only=True) as source:
            assert source.is_overlay
            found = list(source.extents(0, SIZE))
            assert sum(extent.length for extent in found) < SIZE // 2, "what is below is left out"
            assert not [extent for extent in source.extents(8 * MIB, 8 * MIB + MIB // 2) if extent.is_data]
            assert await asyncio.to_thread(assembled, source, below) == model
            sizes = {extent: bytearray(extent.length) for extent in found if extent.is_data}
            for extent, data in sizes.items():
                source.read_into(memoryview(data), extent.offset)
        with NbdSource(top, served.socket, "root") as whole:
            assert await asyncio.to_thread(assembled, whole) == model
    async with daemon(copy) as served:
        with NbdTarget(copy, served.socket, "root") as target:
            for extent in found:
                if extent.is_data:
                    target.write_at(extent.offset, memoryview(sizes[extent]))
                else:
                    target.write_zeroes(extent.offset, extent.length)
    assert content(copy, "qcow2") == model
    check(copy)


async def test_a_daemon_that_dies_in_the_middle_of_writes_is_told_with_the_disk_and_the_range(image: Path) -> None:
    async with daemon(image) as served:
        with NbdTarget(image, served.socket, "root") as target:

            def write_on() -> None:
                for number in range(1_000_000):
                    target.write_at(number % 64 * MIB, bytes(MIB))

            writing = asyncio.create_task(asyncio.to_thread(write_on))
            await asyncio.sleep(0.1)
            os.kill(served.pid, signal.SIGKILL)
            with pytest.raises(DiskError, match=r"root\.qcow2: the NBD server of root .* write \d+ bytes at \d+"):
                await writing
            with pytest.raises(DiskError, match="make it durable"):
                target.sync()
        with pytest.raises(MoveFailed, match="ended with -9: it said nothing"):
            await served.end()
    assert not is_locked(image)


async def test_what_was_synced_is_there_whatever_becomes_of_the_daemon(image: Path) -> None:
    model = bytearray(SIZE)
    async with daemon(image) as served:
        with NbdTarget(image, served.socket, "root") as target:
            await asyncio.to_thread(scribble, target, model, 6)
            target.sync()
            os.kill(served.pid, signal.SIGKILL)
        with pytest.raises(MoveFailed):
            await served.end()
    assert content(image, "qcow2") == model


async def test_a_daemon_that_hangs_fails_the_write_and_not_us(image: Path) -> None:
    async with daemon(image) as served:
        with NbdTarget(image, served.socket, "root", timeout=2) as target:
            os.kill(served.pid, signal.SIGSTOP)
            try:
                with pytest.raises(DiskError, match=r"write 1 bytes at 0: it did not answer within 2 s"):
                    await asyncio.to_thread(target.write_at, 0, b"x")
                with pytest.raises(DiskError, match="did not answer within 2 s"):
                    await asyncio.to_thread(NbdTarget, image, served.socket, "root", timeout=2)
            finally:
                os.kill(served.pid, signal.SIGCONT)


async def test_a_sector_that_cannot_be_read_is_told_with_its_range_and_the_rest_is_read(tmp_path: Path) -> None:
    path, socket, pidfile = (tmp_path / name for name in ("root.raw", "nbd.sock", "pid"))
    path.write_bytes(random.Random(1).randbytes(4 * MIB))
    fault = {"event": "none", "iotype": "read", "errno": 5, "sector": 2 * MIB // 512}
    file = {"driver": "file", "filename": str(path)}
    served = await asyncio.create_subprocess_exec(
        "qemu-storage-daemon", "--pidfile", str(pidfile),
        "--blockdev", json.dumps({"driver": "blkdebug", "node-name": "image", "image": file, "inject-error": [fault]}),
        "--nbd-server", json.dumps({"addr": {"type": "unix", "path": str(socket)}}),
        "--export", json.dumps({"type": "nbd", "id": "image", "node-name": "image", "name": "root"}),
    )  # fmt: skip
    try:
        await eventually(pidfile.exists)
        with NbdSource(path, socket, "root") as source:
            buffer = aligned_buffer(256 * KIB)
            with pytest.raises(DiskError, match=rf"read 262144 bytes at {2 * MIB}: Input/output error") as caught:
                source.read_into(buffer, 2 * MIB)
            assert caught.value.number == errno.EIO
            source.read_into(buffer, MIB)
            assert buffer == path.read_bytes()[MIB : MIB + 256 * KIB]
    finally:
        served.terminate()
        await served.wait()


@pytest.mark.lab
async def test_a_full_file_system_is_told_and_the_image_can_still_be_read(tmp_path: Path) -> None:
    with mounted("ext4", tmp_path, 32 * MIB) as folder:
        path = folder / "root.qcow2"
        qcow2.create(path, SIZE)
        async with daemon(path) as served:
            with NbdTarget(path, served.socket, "root") as target:
                with pytest.raises(DiskError, match="No space left") as caught:
                    for at in range(0, 64 * MIB, MIB):
                        target.write_at(at, b"x" * MIB)
                assert "Free space" in caught.value.hint
                first = bytearray(4096)
                with NbdSource(path, served.socket, "root") as source:
                    source.read_into(memoryview(first), 0)
                assert first == b"x" * 4096


async def test_an_image_in_use_or_of_another_format_is_refused_with_the_daemons_words(image: Path) -> None:
    async with daemon(image):
        with pytest.raises(MoveFailed, match='Failed to get "write" lock'):
            await StorageDaemon.start(disk(), image, image.parent / "second" / "s", writable=True)
    os.truncate(image, 0)
    with pytest.raises(MoveFailed, match="not in qcow2 format"):
        await StorageDaemon.start(disk(), image, image.parent / "second" / "s", writable=True)
    assert list((image.parent / "second").iterdir()) == []


async def test_a_read_only_daemon_takes_no_writes_and_lets_others_read(image: Path) -> None:
    async with daemon(image, writable=False) as served:
        with (
            NbdTarget(image, served.socket, "root") as target,
            pytest.raises(DiskError, match="Export is read-only"),
        ):
            target.write_at(0, b"x")
        assert content(image, "qcow2") == bytes(SIZE)


AGENT = """
import asyncio, sys
from pathlib import Path
from kvmove.model.vm import DiskDefinition
from kvmove.qemu.storage_daemon import StorageDaemon

async def main():
    disk = DiskDefinition(name="root", datastore="ds", size=512, format="qcow2")
    daemon = await StorageDaemon.start(disk, Path(sys.argv[1]), Path(sys.argv[2]), writable=True)
    print(daemon.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_an_agent_that_is_killed_leaves_no_daemon_that_holds_the_image(image: Path, tmp_path: Path) -> None:
    socket = tmp_path / "nbd" / "s"
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENT, image, socket, stdout=asyncio.subprocess.PIPE
    )
    assert agent.stdout is not None
    pid = int(await agent.stdout.readline())
    handle = os.pidfd_open(pid)
    try:
        assert is_locked(image)
        agent.kill()
        await agent.wait()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(handle, ended.set)
        async with asyncio.timeout(30):
            await ended.wait()
        asyncio.get_running_loop().remove_reader(handle)
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
    assert not is_locked(image)
    again = await StorageDaemon.start(disk(), image, socket, writable=True)  # over what the dead one left
    await again.end()
