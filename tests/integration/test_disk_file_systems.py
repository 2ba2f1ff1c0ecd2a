"""Disks on the file systems that people have: what differs between them must not be seen from outside.

A device with sectors of 4096 bytes refuses direct reads of anything finer.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from kvmove.disk.clone import clone
from kvmove.disk.datastore import Datastore
from kvmove.disk.digest import disk_digest
from kvmove.disk.errors import DiskError
from kvmove.disk.extents import extents
from kvmove.disk.offload import Offload
from kvmove.disk.quarantine import Leaving
from kvmove.disk.raw_file import RawFile, aligned_buffer
from kvmove.disk.raw_target import RawTarget
from kvmove.model.vm import DiskDefinition
from tests.support.file_systems import cached, mounted

DISKS = ("root", "data", "disk")

pytestmark = pytest.mark.lab

MIB = 1024 * 1024
SIZE = 16 * MIB + 512
VM = UUID("11111111-2222-3333-4444-555555555555")
ROOT = DiskDefinition(name="root", datastore="local", size=SIZE)


@pytest.fixture(scope="module", params=["ext3-512", "ext4-512", "xfs-512", "xfs-4096", "tmpfs-512"])
def storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    kind, sector = request.param.split("-")
    with mounted(kind, tmp_path_factory.mktemp(kind), 400 * MIB, sector=int(sector)) as path:
        yield kind, path


@pytest.fixture
def disk(storage: tuple[str, Path]) -> Iterator[Path]:
    """16 MiB and one sector, with data at 4 MiB to 6 MiB and in the last sector."""
    path = storage[1] / "d0.raw"
    with RawTarget.create(path, SIZE) as target:
        target.write_at(4 * MIB, b"\x5a" * 2 * MIB)
        target.write_at(SIZE - 512, b"\xa5" * 512)
        target.sync()
        target.sync_folder()
    yield path
    path.unlink()


def test_holes_are_told_and_cost_no_space(disk: Path) -> None:
    with RawFile(disk) as source:
        found = list(extents(source.file, 0, SIZE - 512))
        assert next(extent for extent in found if extent.is_data) == (4 * MIB, 2 * MIB, True)
        assert found[0] == (0, 4 * MIB, False)
        assert sum(extent.length for extent in found) == SIZE - 512
    with RawTarget(disk) as target:
        assert target.allocated() <= 2 * MIB + 128 * 1024


def test_a_direct_read_of_any_alignment_is_right_up_to_the_last_byte(disk: Path) -> None:
    expected = disk.read_bytes()
    with RawFile(disk, direct=True) as source:
        assert source.is_direct
        for offset, length in ((0, MIB), (4 * MIB - 1, 700), (SIZE - 512, 512), (SIZE - MIB - 512, MIB + 512)):
            buffer = aligned_buffer(length)
            source.read_into(buffer, offset)
            assert bytes(buffer) == expected[offset : offset + length]


def test_large_writes_stay_out_of_the_page_cache_where_the_file_system_can(storage: tuple[str, Path]) -> None:
    kind, folder = storage
    path = folder / "large.raw"
    buffer = aligned_buffer(MIB + 4096)
    buffer[:] = os.urandom(len(buffer))
    with RawTarget.create(path, SIZE) as target:
        target.write_at(MIB, buffer[:MIB])
        target.write_at(3 * MIB, buffer[512 : MIB + 512])  # memory that a device with sectors of 4096 bytes refuses
        target.write_at(8 * MIB, buffer[:MIB])
        target.write_at(8 * MIB + 4096, buffer[4096:8192])  # small, over the large one: through the cache
        target.write_at(8 * MIB, buffer[4096:])
        target.sync()
    assert kind == "tmpfs" or cached(path) <= 2 * MIB
    with RawFile(path) as source:
        for at, data in ((MIB, buffer[:MIB]), (3 * MIB, buffer[512 : MIB + 512]), (8 * MIB, buffer[4096:])):
            found = aligned_buffer(MIB)
            source.read_into(found, at)
            assert found == data
    path.unlink()


def test_punching_gives_space_back_and_keeps_the_neighbours(disk: Path) -> None:
    with RawTarget(disk) as target:
        before = target.allocated()
        target.write_zeroes(4 * MIB + 1, MIB)
        target.sync()
        assert target.allocated() <= before - MIB + 8192
        data = disk.read_bytes()
        assert data[4 * MIB : 4 * MIB + 1] == b"\x5a"
        assert not any(data[4 * MIB + 1 : 5 * MIB + 1])
        assert data[5 * MIB + 1 : 6 * MIB] == b"\x5a" * (MIB - 1)


def test_a_thick_disk_keeps_all_its_space(storage: tuple[str, Path]) -> None:
    path = storage[1] / "thick.raw"
    with RawTarget.create(path, SIZE, thick=True) as target:
        target.sync()
        assert target.allocated() >= SIZE
        assert target.is_blank == (storage[0] != "ext3")
        target.write_at(4 * MIB, b"\x5a" * 2 * MIB)
        for offset, length in ((0, 4 * MIB), (4 * MIB + 1, MIB), (8 * MIB, SIZE - 8 * MIB)):
            target.write_zeroes(offset, length)
        target.sync()
        assert target.allocated() >= SIZE
    data = path.read_bytes()
    assert (data[4 * MIB], data[5 * MIB + 1 : 6 * MIB], len(data)) == (0x5A, b"\x5a" * (MIB - 1), SIZE)
    assert not any(data[: 4 * MIB])
    assert not any(data[4 * MIB + 1 : 5 * MIB + 1])
    assert not any(data[6 * MIB :])
    path.unlink()


def test_holes_and_zeroes_that_move_into_a_thick_disk_take_nothing_from_it(disk: Path) -> None:
    path = disk.with_name("thick.raw")
    with RawFile(disk) as source, RawTarget.create(path, SIZE, thick=True) as target:
        way = Offload(source, target)
        for extent in source.extents(0, SIZE):
            if extent.is_data:
                way.move(extent.offset, extent.length, untouched=True)
            else:
                target.write_zeroes(extent.offset, extent.length)
        way.sync()
        assert target.allocated() >= SIZE
    assert disk_digest(path) == disk_digest(disk)
    path.unlink()


def test_a_thick_disk_that_finds_no_room_leaves_nothing(storage: tuple[str, Path]) -> None:
    path = storage[1] / "thick.raw"
    with pytest.raises(DiskError) as caught:
        RawTarget.create(path, 1024 * MIB, thick=True)
    assert (caught.value.number, path.exists()) == (errno.ENOSPC, False)


def test_the_layout_does_not_change_the_digest(disk: Path) -> None:
    thick = disk.with_name("thick.raw")
    thick.write_bytes(disk.read_bytes())
    try:
        assert thick.stat().st_blocks > disk.stat().st_blocks
        assert disk_digest(thick) == disk_digest(disk)
    finally:
        thick.unlink()


def test_a_clone_shares_blocks_where_the_file_system_can(disk: Path, storage: tuple[str, Path]) -> None:
    kind, path = storage
    target = path / "clone.raw"
    free = os.statvfs(path).f_bfree
    assert clone(disk, target) == target.exists() == (kind == "xfs")
    if target.exists():
        assert (free - os.statvfs(path).f_bfree) * os.statvfs(path).f_bsize < MIB
        assert disk_digest(target) == disk_digest(disk)
        with RawTarget(target) as copy:
            copy.write_at(4 * MIB, b"mine")
        assert disk_digest(target) != disk_digest(disk)
        target.unlink()


def test_a_full_file_system_is_told_and_does_not_look_like_zeroes(storage: tuple[str, Path]) -> None:
    path = storage[1] / "big.raw"
    with RawTarget.create(path, 1024 * MIB) as target:
        try:
            with pytest.raises(DiskError) as caught:
                for offset in range(0, target.size, MIB):
                    target.write_at(offset, b"x" * MIB)
                target.sync()
            assert caught.value.number == errno.ENOSPC
        finally:
            path.unlink()


def test_a_datastore_lives_through_a_move_in_and_out(storage: tuple[str, Path]) -> None:
    store = Datastore.create("local", storage[1])
    store.begin_incoming(VM, "m1", DISKS)
    store.create_disk(VM, ROOT, reserve=MIB)
    with store.open_target(VM, ROOT) as target:
        target.write_at(0, b"boot")
        target.sync()
    store.commit_incoming(VM, "m1")
    where = store.quarantine(VM, "m2", Leaving(DISKS))
    assert (where / "root.raw").read_bytes()[:4] == b"boot"
    assert store.purge(0) == [f"{VM}.m2"]
    assert Datastore.open("again", storage[1]).id == store.id
    (storage[1] / ".kvmove-datastore").unlink()
