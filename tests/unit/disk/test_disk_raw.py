"""The source and the destination disk, on the file system of the test folder."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmove.disk import raw_target
from kvmove.disk.errors import DiskError
from kvmove.disk.raw_file import RawFile, aligned_buffer
from kvmove.disk.raw_target import RawTarget

MIB = 1024 * 1024
SIZE = 3 * MIB + 512
CONTENT = bytes(range(1, 252)) * (SIZE // 251 + 1)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "d0.raw"
    path.write_bytes(CONTENT[:SIZE])
    return path


def read(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), length, start)


@pytest.mark.parametrize("direct", [False, True], ids=["buffered", "direct"])
@pytest.mark.parametrize(
    ("offset", "length"),
    [
        pytest.param(0, 4096, id="first-page"),
        pytest.param(MIB, 2 * MIB, id="aligned"),
        pytest.param(3 * MIB, 512, id="tail-shorter-than-a-page"),
        pytest.param(2 * MIB, MIB + 512, id="up-to-the-end"),
        pytest.param(513, 700, id="unaligned"),
        pytest.param(4095, 2 * MIB + 2, id="unaligned-and-long"),
        pytest.param(SIZE - 1, 1, id="last-byte"),
        pytest.param(77, 0, id="nothing"),
    ],
)
def test_a_read_gives_exactly_what_is_there(image: Path, offset: int, length: int, direct: bool) -> None:
    with RawFile(image, direct=direct) as disk:
        assert disk.is_direct == direct
        assert disk.size == SIZE
        for buffer in (aligned_buffer(length or 1)[:length], memoryview(bytearray(length + 1))[1:]):
            disk.read_into(buffer, offset)
            assert buffer == CONTENT[offset : offset + length]


@pytest.mark.parametrize("direct", [False, True], ids=["buffered", "direct"])
@pytest.mark.parametrize("offset", [0, 4096, 1, SIZE - 4095, SIZE, 2 * SIZE])
def test_a_read_over_the_end_raises_and_is_not_filled_with_zeroes(image: Path, direct: bool, offset: int) -> None:
    with RawFile(image, direct=direct) as disk, pytest.raises(DiskError):
        disk.read_into(aligned_buffer(4 * MIB), offset)


def test_a_direct_read_of_the_last_page_does_not_invent_what_is_behind_it(image: Path) -> None:
    with RawFile(image, direct=True) as disk, pytest.raises(DiskError, match="10 bytes are missing"):
        disk.read_into(memoryview(bytearray(110)), SIZE - 100)


def test_a_file_that_was_cut_off_has_no_extents_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x" * (4 * MIB))
    with RawFile(path) as disk:
        os.truncate(path, 2 * MIB)
        with pytest.raises(DiskError, match=f"cut off: it has {2 * MIB} bytes, and had {4 * MIB}"):
            list(disk.extents(3 * MIB, 4 * MIB))
        os.truncate(path, 5 * MIB)
        assert [extent.is_data for extent in disk.extents(3 * MIB, 4 * MIB)] == [False]


def test_an_io_error_names_the_range(tmp_path: Path) -> None:
    with (
        RawFile(Path("/proc/self/mem")) as disk,  # its first page is not mapped: EIO
        pytest.raises(DiskError, match=r"/proc/self/mem: cannot read 4096 bytes at 8192: Input/output error") as caught,
    ):
        disk.read_into(memoryview(bytearray(4096)), 8192)
    assert caught.value.number == errno.EIO
    assert caught.value.hint


def test_a_direct_read_sees_what_was_just_written_through_the_page_cache(image: Path) -> None:
    with RawFile(image, direct=True) as disk, image.open("r+b") as file:
        os.pwrite(file.fileno(), b"new" * 100, 5000)
        buffer = aligned_buffer(8192)
        disk.read_into(buffer, 4096)
        assert buffer[904 : 904 + 300] == b"new" * 100


def test_direct_falls_back_to_buffered_where_there_is_none() -> None:
    with RawFile(Path("/proc/self/mem"), direct=True) as disk:
        assert not disk.is_direct


def test_dropping_the_cache_changes_nothing(image: Path) -> None:
    with RawFile(image) as disk:
        disk.drop_cache(0, SIZE)
        buffer = memoryview(bytearray(700))
        disk.read_into(buffer, 513)
        assert buffer == CONTENT[513:1213]


@pytest.mark.parametrize("kind", [RawFile, RawTarget])
def test_a_link_is_refused(image: Path, kind: type[RawFile] | type[RawTarget]) -> None:
    link = image.with_name("link.raw")
    link.symlink_to(image)
    with pytest.raises(DiskError) as caught:
        kind(link)
    assert caught.value.number == errno.ELOOP


@pytest.mark.parametrize("kind", [RawFile, RawTarget])
def test_a_missing_disk_is_not_made(tmp_path: Path, kind: type[RawFile] | type[RawTarget]) -> None:
    with pytest.raises(DiskError, match="No such file"):
        kind(tmp_path / "none.raw")
    assert list(tmp_path.iterdir()) == []


def test_a_new_disk_has_its_size_and_takes_no_space(tmp_path: Path) -> None:
    with RawTarget.create(tmp_path / "t.raw", 100 * MIB) as target:
        assert target.size == (tmp_path / "t.raw").stat().st_size == 100 * MIB
        assert target.allocated() == 0
    assert (tmp_path / "t.raw").stat().st_mode & 0o777 == 0o600


def test_a_disk_that_exists_is_not_made_anew(image: Path) -> None:
    with pytest.raises(DiskError, match="File exists"):
        RawTarget.create(image, 100)
    assert image.read_bytes() == CONTENT[:SIZE]


@pytest.mark.parametrize("thick", [False, True])
def test_a_disk_that_is_too_large_for_any_file_leaves_nothing(tmp_path: Path, thick: bool) -> None:
    with pytest.raises(DiskError):
        RawTarget.create(tmp_path / "t.raw", 2**62, thick=thick)
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_there_after_opening_again(tmp_path: Path) -> None:
    path = tmp_path / "t.raw"
    with RawTarget.create(path, SIZE) as target:
        target.write_at(513, memoryview(CONTENT)[:700])
        target.write_at(SIZE - 1, b"z")
        target.sync()
        target.sync_folder()
        target.drop_cache(0, SIZE)
    with RawTarget(path) as target:
        assert target.size == SIZE
        target.write_at(0, b"a")
    assert read(path, 0, 1) == b"a"
    assert read(path, 512, 702) == b"\0" + CONTENT[:700] + b"\0"
    assert read(path, SIZE - 2, 2) == b"\0z"


def test_zeroed_space_is_given_back(tmp_path: Path) -> None:
    with RawTarget.create(tmp_path / "t.raw", 4 * MIB) as target:
        target.write_at(0, b"x" * 4 * MIB)
        target.sync()
        before = target.allocated()
        target.write_zeroes(MIB, 2 * MIB)
        target.sync()
        assert before - target.allocated() == 2 * MIB
        assert target.size == 4 * MIB


def test_a_write_without_room_names_the_range() -> None:
    with RawTarget(Path("/dev/full")) as target, pytest.raises(DiskError, match="write 700 bytes at 513") as caught:
        target.write_at(513, b"x" * 700)
    assert caught.value.number == errno.ENOSPC
    assert "Free space" in caught.value.hint


unaligned = st.tuples(st.integers(0, 200_000), st.integers(0, 100_000))
aligned = st.tuples(st.integers(0, 32), st.integers(16, 40)).map(lambda pair: (pair[0] * 4096, pair[1] * 4096))
ranges = st.one_of(unaligned, aligned)
MEMORY = aligned_buffer(MIB)
MEMORY[:] = CONTENT[:MIB]


@pytest.mark.parametrize("can_punch", [True, False], ids=["punching", "writing"])
@settings(max_examples=30)
@given(ops=st.lists(st.tuples(st.booleans(), ranges), max_size=12))
def test_writes_and_zeroes_of_any_alignment_are_as_on_a_model(
    tmp_path_factory: pytest.TempPathFactory, can_punch: bool, ops: list[tuple[bool, tuple[int, int]]]
) -> None:
    model = bytearray(300_000)
    path = tmp_path_factory.mktemp("model") / "t.raw"
    with pytest.MonkeyPatch.context() as patch, RawTarget.create(path, len(model)) as target:
        if not can_punch:
            patch.setattr(raw_target, "punch_hole", lambda fd, offset, length: False)
        for is_zero, (offset, length) in ops:
            data = bytes(length) if is_zero else MEMORY[:length]
            model[offset : offset + length] = data
            if is_zero:
                target.write_zeroes(offset, length)
            else:
                target.write_at(offset, data)
    assert path.read_bytes() == model
    path.unlink()
