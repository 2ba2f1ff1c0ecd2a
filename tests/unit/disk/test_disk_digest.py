"""Digests: equal for equal bytes, however they are stored."""

import hashlib
import os
from pathlib import Path

import pytest

from kvmove.disk.clone import clone
from kvmove.disk.digest import disk_digest
from kvmove.disk.errors import DiskError

MIB = 1024 * 1024
SIZE = 9 * MIB + 512


def make(path: Path, *, sparse: bool, size: int = SIZE) -> Path:
    with path.open("wb") as file:
        if sparse:
            file.truncate(size)
        else:
            file.write(bytes(size))
        for offset in (513, 600_000, 3 * MIB - 5, 7 * MIB, size - 3):
            os.pwrite(file.fileno(), b"data!"[: size - offset], offset)
    return path


def test_zeroes_and_holes_are_the_same(tmp_path: Path) -> None:
    sparse = make(tmp_path / "sparse", sparse=True)
    full = make(tmp_path / "full", sparse=False)
    assert sparse.stat().st_blocks < full.stat().st_blocks
    assert disk_digest(sparse) == disk_digest(full)


def test_the_digest_is_as_defined(tmp_path: Path) -> None:
    """Both ends of a move, and kvmove of another version, must come to the same text."""
    path = make(tmp_path / "a", sparse=True)
    data = path.read_bytes()
    expected = hashlib.sha256(len(data).to_bytes(8, "big"))
    for offset in range(0, len(data), MIB):
        if any(region := data[offset : offset + MIB]):
            expected.update(offset.to_bytes(8, "big") + region)
    assert disk_digest(path) == expected.hexdigest()


@pytest.mark.parametrize("offset", [0, 513, 512 + 5, 3 * MIB, 3 * MIB - 6, 5 * MIB, SIZE - 1])
def test_one_byte_makes_another_digest(tmp_path: Path, offset: int) -> None:
    path = make(tmp_path / "a", sparse=True)
    before = disk_digest(path)
    with path.open("r+b") as file:
        old = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([old[0] ^ 1]), offset)
    assert disk_digest(path) != before


def test_the_same_bytes_elsewhere_make_another_digest(tmp_path: Path) -> None:
    digests = set()
    for offset in (0, MIB, 2 * MIB):
        path = tmp_path / str(offset)
        with path.open("wb") as file:
            file.truncate(4 * MIB)
            os.pwrite(file.fileno(), b"x" * MIB, offset)
        digests.add(disk_digest(path))
    assert len(digests) == 3


def test_the_size_counts(tmp_path: Path) -> None:
    sizes = [make(tmp_path / name, sparse=True) for name in "ab"]
    assert len({disk_digest(path) for path in sizes}) == 1
    os.truncate(sizes[0], SIZE + 512)
    assert len({disk_digest(path) for path in sizes}) == 2


def test_progress_rises_and_holes_are_not_read(tmp_path: Path) -> None:
    seen: list[int] = []
    disk_digest(make(tmp_path / "a", sparse=True), seen.append)
    assert seen == [MIB, 3 * MIB, 8 * MIB, 9 * MIB + 512]


def test_progress_may_end_the_work(tmp_path: Path) -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        disk_digest(make(tmp_path / "a", sparse=True), stop)


def test_no_clone_where_the_file_system_cannot_and_nothing_is_left(tmp_path: Path) -> None:
    source = make(tmp_path / "a", sparse=True)
    target = Path("/dev/shm") / f"kvmove-clone-{os.getpid()}"
    assert not clone(source, target)  # another file system
    assert not target.exists()


def test_a_clone_replaces_nothing(tmp_path: Path) -> None:
    source, target = make(tmp_path / "a", sparse=True), tmp_path / "b"
    target.write_text("precious")
    with pytest.raises(DiskError, match="File exists"):
        clone(source, target)
    assert target.read_text() == "precious"
