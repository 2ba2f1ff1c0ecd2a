"""A move within a host where it is hardest: the guest writes to what is being copied. Files, threads, no QEMU."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmove.disk.errors import DiskError, disk_error
from kvmove.disk.offload import Offload, Rung
from kvmove.disk.raw_file import RawFile
from kvmove.disk.raw_target import RawTarget
from kvmove.mover.disk_move import DiskMove
from kvmove.mover.move_terms import MoverSettings, MovingDisk
from kvmove.units import MIB
from tests.support.eventually import eventually
from tests.support.writing_guest import FakeMirror

SIZE = 8 * MIB


class WatchedDisk(RawFile):
    """Calls `after_read` after each read, before the mover has what was read."""

    after_read: Callable[[int, int], None] | None = None

    def read_into(self, buffer: memoryview, offset: int) -> None:
        super().read_into(buffer, offset)
        if self.after_read is not None:
            self.after_read(offset, len(buffer))


class Rig:
    """A move of one disk that is read and written; `write` is a guest's write up to its arrival at the mirror."""

    def __init__(self, folder: Path, target: RawTarget | None = None) -> None:
        path = folder / "source.raw"
        path.write_bytes(os.urandom(SIZE))
        self.source = WatchedDisk(path)
        self.target = target or RawTarget.create(folder / "target.raw", SIZE)
        offloads = [Offload(self.source, self.target, ladder=())]
        self.move = DiskMove.within_host([MovingDisk(self.source)], offloads, MoverSettings())
        self.mirror = FakeMirror()
        self.move.mirror(0).server = self.mirror
        self._file = os.open(path, os.O_WRONLY)
        self._lock = threading.Lock()
        self.written = 0

    def write(self, offset: int, payload: bytes | None, length: int = 0) -> None:
        os.pwrite(self._file, payload if payload is not None else bytes(length), offset)
        with self._lock:
            self.written += 1
            cookie = self.written
        if payload is not None:
            self.move.mirror(0).on_write(cookie, offset, payload)
        else:
            self.move.mirror(0).on_zero(cookie, offset, length, True)

    def finish(self) -> None:
        assert self.move.wait_settled(30)
        self.move.sync_targets()
        assert self.source.path.read_bytes() == self.target.path.read_bytes()
        assert self.mirror.answered == self.written

    def close(self) -> None:
        self.move.stop()
        self.source.close()
        self.target.close()
        os.close(self._file)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def test_a_write_after_the_read_of_its_region_is_applied_behind_the_regions_bulk(rig: Rig) -> None:
    def write_over_what_was_read(offset: int, length: int) -> None:
        rig.write(offset + 4096, b"new" * 5000)
        rig.write(offset + 512 * 1024, None, 65536)
        rig.write(offset + 4096, b"newer" * 700)

    rig.source.after_read = write_over_what_was_read
    rig.move.start(10)
    rig.move.start_copy()
    assert rig.move.wait_copied(30)
    rig.source.after_read = None
    assert rig.written == 3 * 8
    rig.finish()


def test_a_discard_while_its_region_is_copied_makes_it_be_copied_again(rig: Rig) -> None:
    again: list[int] = []

    def discard_once(offset: int, length: int) -> None:
        if offset == 3 * MIB and not again:
            again.append(offset)
            os.pwrite(rig._file, bytes(4096), offset)
            rig.move.mirror(0).on_trim(1, offset, 4096)

    rig.source.after_read = discard_once
    rig.move.start(10)
    rig.move.start_copy()
    assert rig.move.wait_copied(30)
    assert rig.move.snapshot()[0][0].recopied == MIB
    rig.written += 1  # the discard is answered as well
    rig.finish()


def test_writes_are_ignored_before_the_copy_and_applied_after_it(rig: Rig) -> None:
    rig.move.start(10)
    rig.write(MIB, b"before")
    rig.move.start_copy()
    assert rig.move.wait_copied(30)
    rig.write(MIB + 4096, b"after" * 100)
    rig.write(7 * MIB - 4096, b"over the edge of a region" * 1000)
    rig.write(2 * MIB, None, MIB)
    rig.finish()
    disk = rig.move.snapshot()[0][0]
    assert disk.ignored == 1
    assert disk.forwarded == 4
    assert disk.copied == disk.total == SIZE
    assert disk.by_rung == {Rung.REFLINK: 0, Rung.KERNEL_COPY: 0, Rung.READ_WRITE: SIZE}
    assert rig.move.snapshot()[1] == {}, "no NIC takes part"


class Full(RawTarget):
    """A target on a full file system."""

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        raise disk_error(f"write {len(data)} bytes at {offset}", self.path, OSError(errno.ENOSPC, ""))


async def test_a_full_target_fails_the_move_and_not_the_guest(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Full.create(tmp_path / "target.raw", SIZE))
    try:
        rig.move.start(10)
        rig.move.start_copy()
        with pytest.raises(DiskError, match="No space left"):
            rig.move.wait_copied(30)
        for number in range(100):
            rig.write(number * 4096, b"goes on" * 500)
        await eventually(lambda: rig.mirror.answered == 100)
    finally:
        rig.close()


def test_a_source_that_cannot_be_read_fails_the_move(rig: Rig) -> None:
    def broken(offset: int, length: int) -> None:
        raise disk_error(f"read {length} bytes at {offset}", rig.source.path, OSError(errno.EIO, ""))

    rig.source.after_read = broken
    rig.move.start(10)
    rig.move.start_copy()
    with pytest.raises(DiskError, match=r"source\.raw: cannot read"):
        rig.move.wait_copied(30)


def test_a_move_that_was_never_started_can_be_stopped(rig: Rig) -> None:
    rig.move.stop()
