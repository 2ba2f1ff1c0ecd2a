"""The picture of a disk's regions: against the map that it is taken of, and against the words of each letter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.mover.region_map import RegionMap
from kvmove.mover.region_picture import CELLS, picture

STATES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=2000)


@pytest.mark.parametrize(
    "states, returned, letter",
    [
        ("000", "000", "."), ("020", "000", "-"), ("222", "000", "#"), ("212", "000", "*"),
        ("202", "010", "!"), ("202", "100", "-"), ("222", "010", "+"), ("000", "001", "!"),
    ],
)  # fmt: skip
def test_what_each_letter_means(states: str, returned: str, letter: str) -> None:
    assert picture(bytes(map(int, states)), bytes(map(int, returned)), 1) == letter


@given(STATES, st.integers(1, CELLS))
def test_every_region_is_in_one_cell_and_none_promises_too_much(regions: list[tuple[int, int]], cells: int) -> None:
    states, returned = bytes(state for state, _ in regions), bytes(back for _, back in regions)
    shown = picture(states, returned, cells)
    assert len(shown) == min(cells, len(regions))
    assert (set(shown) <= {"#", "+"}) is (set(states) == {2})
    if 1 in states:
        assert "*" in shown


def test_the_map_tells_what_went_back() -> None:
    regions = RegionMap(disk=0, size=3, region_size=1)
    copies = [regions.begin_copy(stream=0) for _ in range(2)]
    assert picture(regions.states(), regions.went_back()) == "**."
    for copy in copies:
        assert copy is not None
        regions.bulk_handed(copy)
    assert picture(regions.states(), regions.went_back()) == "##."
    regions.undelivered(1)
    assert picture(regions.states(), regions.went_back()) == "#!."
    again = regions.begin_copy(stream=0)
    assert again is not None and again.region == 2  # the cursor goes round


def test_an_empty_disk_has_no_picture() -> None:
    assert picture(b"", b"") == ""
