"""Where a disk's data and zeroes are."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.disk.extents import GRANULARITY, Extent, Run, extents, is_zero, split_zeroes

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """8 MiB with data at [1 MiB, 2 MiB) and [4 MiB, 4 MiB + 64 KiB)."""
    path = tmp_path / "d0.raw"
    with path.open("wb") as file:
        file.truncate(8 * MIB)
        os.pwrite(file.fileno(), b"a" * MIB, MIB)
        os.pwrite(file.fileno(), b"b" * 64 * KIB, 4 * MIB)
    return path


def extents_of(path: Path, start: int, end: int) -> list[Extent]:
    with path.open("rb") as file:
        return list(extents(file.fileno(), start, end))


def test_data_and_holes_follow_each_other_without_gaps(sparse: Path) -> None:
    assert extents_of(sparse, 0, 8 * MIB) == [
        (0, MIB, False),
        (MIB, MIB, True),
        (2 * MIB, 2 * MIB, False),
        (4 * MIB, 64 * KIB, True),
        (4 * MIB + 64 * KIB, 4 * MIB - 64 * KIB, False),
    ]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        pytest.param(MIB, 2 * MIB, [(MIB, MIB, True)], id="just-data"),
        pytest.param(5 * MIB, 6 * MIB, [(5 * MIB, MIB, False)], id="just-a-hole"),
        pytest.param(7 * MIB, 8 * MIB, [(7 * MIB, MIB, False)], id="hole-at-the-end"),
        pytest.param(MIB + 7, MIB + 9, [(MIB + 7, 2, True)], id="inside-data"),
        pytest.param(2 * MIB - 4096, 2 * MIB + 1, [(2 * MIB - 4096, 4096, True), (2 * MIB, 1, False)], id="edge"),
        pytest.param(3 * MIB, 3 * MIB, [], id="nothing"),
    ],
)
def test_only_the_range_asked_for_is_told(
    sparse: Path, start: int, end: int, expected: list[tuple[int, int, bool]]
) -> None:
    assert extents_of(sparse, start, end) == expected


def test_who_cannot_tell_has_data_everywhere() -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    try:
        with pytest.raises(OSError, match="Illegal seek"):
            list(extents(read_end, 0, MIB))
    finally:
        os.close(read_end)
    assert extents_of(Path("/proc/self/mem"), 4096, MIB) == [(4096, MIB - 4096, True)]


def test_a_file_that_shrank_ends_in_a_hole(sparse: Path) -> None:
    with sparse.open("rb") as file:
        walk = extents(file.fileno(), 0, 8 * MIB)
        assert next(walk) == (0, MIB, False)
        os.truncate(sparse, MIB)
        assert list(walk) == [(MIB, 7 * MIB, False)] or sum(extent.length for extent in walk) <= 7 * MIB


def test_runs_merge_and_keep_to_the_granularity() -> None:
    g = GRANULARITY
    data = bytes(2 * g) + b"x" + bytes(g - 1) + bytes(g - 1) + b"x" + bytes(g) + bytes(100)
    assert split_zeroes(data) == [Run(0, 2 * g, True), Run(2 * g, 2 * g, False), Run(4 * g, g + 100, True)]


@pytest.mark.parametrize("length", [1, 7, 4096, GRANULARITY - 1, GRANULARITY, GRANULARITY + 1, MIB + 3])
def test_one_byte_anywhere_makes_data(length: int) -> None:
    buffer = bytearray(length)
    assert is_zero(buffer)
    assert split_zeroes(buffer) == [(0, length, True)]
    for at in {0, length // 2, length - 1}:
        buffer[at] = 1
        assert not is_zero(memoryview(buffer))
        assert any(not run.is_zero and run.start <= at < run.start + run.length for run in split_zeroes(buffer))
        buffer[at] = 0


def test_nothing_has_no_runs() -> None:
    assert split_zeroes(b"") == []
    assert is_zero(b"")


pieces = st.lists(st.tuples(st.booleans(), st.integers(1, 300)), max_size=20)


@given(pieces, st.integers(1, 100))
def test_runs_say_what_the_bytes_say(parts: list[tuple[bool, int]], granularity: int) -> None:
    data = b"".join(bytes(length) if zero else b"\xff" * length for zero, length in parts)
    runs = split_zeroes(data, granularity)
    assert sum(run.length for run in runs) == len(data)
    for before, after in pairwise(runs):
        assert before.start + before.length == after.start
        assert before.is_zero != after.is_zero
        assert after.start % granularity == 0
    for run in runs:
        piece = data[run.start : run.start + run.length]
        cut = [piece[at : at + granularity] for at in range(0, len(piece), granularity)]
        assert all((not any(part)) == run.is_zero for part in cut)
