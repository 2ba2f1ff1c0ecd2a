"""Two block statuses of one place become data, holes and gaps, byte for byte."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kvmove.disk.nbd_disk import merge
from kvmove.nbd.replies import StatusRun

RUNS = st.lists(st.builds(StatusRun, st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=8)


def each_byte(runs: Sequence[StatusRun]) -> list[int]:
    return [flags for length, flags in runs for _ in range(length)]


@given(RUNS, RUNS, st.integers(1, 80))
def test_each_byte_is_what_both_say_and_as_far_as_both_say(
    zeroes: list[StatusRun], depths: list[StatusRun], most: int
) -> None:
    pieces = merge(zeroes, depths, most)
    both = list(zip(each_byte(zeroes), each_byte(depths), strict=False))[:most]
    expected = [(depth == 1, depth == 1 and bool(zero & 2)) for zero, depth in both]
    assert [piece[1:] for piece in pieces for _ in range(piece.length)] == expected
    assert all(one[1:] != other[1:] for one, other in pairwise(pieces)), "neighbours are one piece"
