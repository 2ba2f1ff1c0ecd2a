"""When a stream is left, as a table; and how long until the next attempt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvmove.mover.shares import Load
from kvmove.mover.stream_watch import RETRY_FIRST, RETRY_MOST, Seen, next_wait, to_leave
from kvmove.units import MIB

WELL = Seen(unanswered=0, silent=0.01, round_trip=0.001, link_down=0.0, load=Load(100.0 * MIB, 4 * MIB))
IDLE = replace(WELL, load=Load(100.0 * MIB, 0))
SILENT = replace(WELL, unanswered=2, silent=1.1)
DOWN = replace(WELL, unanswered=1, silent=0.6, link_down=0.6)
DRAGS = replace(WELL, load=Load(0.1 * MIB, 2 * MIB))
LEFT = 50 * MIB


@pytest.mark.parametrize(
    ("streams", "left", "leaving"),
    [
        ([WELL, WELL], LEFT, set()),
        ([SILENT, WELL], LEFT, {0}),
        ([WELL, SILENT, SILENT], 0, {1, 2}),
        ([SILENT], LEFT, set()),  # the only one: leaving it gains nothing
        ([SILENT, SILENT], LEFT, set()),
        ([replace(SILENT, unanswered=1), WELL], LEFT, set()),  # one lost packet
        ([replace(SILENT, silent=0.9), WELL], LEFT, set()),
        ([replace(SILENT, round_trip=0.3), WELL], LEFT, set()),  # four round trips are not long
        ([replace(SILENT, round_trip=0.3, silent=2.5), WELL], LEFT, {0}),
        ([replace(WELL, silent=60.0), WELL], LEFT, set()),  # nothing was asked of it
        ([DOWN, WELL], LEFT, {0}),
        ([DOWN, SILENT], LEFT, set()),
        ([replace(DOWN, link_down=0.2), WELL], LEFT, set()),
        ([replace(DOWN, unanswered=0), WELL], LEFT, set()),  # the NIC says down, and carries data
        ([DRAGS, IDLE], 0, {0}),
        ([DRAGS, IDLE, DRAGS, WELL], 0, {0, 2}),  # two streams over one slow NIC
        ([DRAGS, IDLE], LEFT, set()),  # there is other work yet
        ([DRAGS, WELL], 0, set()),
        ([DRAGS], 0, set()),
        ([DRAGS, replace(IDLE, load=Load(None, 0))], 0, set()),  # nobody knows whether the other is quicker
        ([DRAGS, replace(IDLE, load=Load(0.2 * MIB, 0))], 0, set()),  # not so much quicker
        ([replace(WELL, load=Load(MIB, 2 * MIB)), IDLE], 0, set()),  # two seconds: let it end
        ([], LEFT, set()),
    ],
)
def test_who_is_left(streams: list[Seen], left: int, leaving: set[int]) -> None:
    assert set(to_leave(dict(enumerate(streams)), left)) == leaving


def test_the_reasons_are_words() -> None:
    assert to_leave({3: SILENT, 4: WELL}, LEFT) == {3: "1.1 s without an answer"}
    assert to_leave({3: DOWN, 4: WELL}, LEFT) == {3: "its link has been down for 600 ms"}
    assert to_leave({3: DRAGS, 4: IDLE}, 0) == {3: "its last 2.0 MiB would take 20.0 s more"}


def test_attempts_come_less_and_less_often_until_a_stream_lasts() -> None:
    waits = [RETRY_FIRST]
    for _ in range(6):
        waits.append(next_wait(waits[-1], lived=0.5))
    assert waits == sorted(waits)
    assert waits[-1] == RETRY_MOST
    assert next_wait(RETRY_MOST, lived=11.0) == RETRY_FIRST
