"""How much each stream is given: that something always may be taken, and that streams of any speed end together."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmove.mover import shares
from kvmove.mover.dispatcher import DiskTerms, Dispatcher, Limits
from kvmove.mover.shares import HOLD_SECONDS, LEAST_REGIONS, LOST_SHARE, Load, Pace, may_take

MIB = 1024 * 1024
PACES = st.floats(1.0, 1e9)
LOADS = st.lists(
    st.builds(Load, st.none() | PACES, st.integers(0, 40).map(lambda count: count * MIB), st.floats(0, 0.4)),
    min_size=1,
    max_size=6,
)


@given(LOADS, st.integers(1, 10_000))
def test_one_stream_may_always_take_what_is_left_once_it_has_delivered_what_it_has(
    loads: list[Load], regions: int
) -> None:
    bare = [Load(load.pace, 0, load.round_trip) for load in loads]
    for some in (bare, loads):
        may = [may_take(mine, some[:at] + some[at + 1 :], MIB, regions * MIB) for at, mine in enumerate(some)]
        assert any(may) or any(load.given for load in some)


@given(PACES, st.floats(0, 0.1), st.integers(1, 10_000))
def test_what_is_given_is_delivered_soon(pace: float, round_trip: float, regions: int) -> None:
    load, count = Load(pace, 0, round_trip), 0
    while may_take(load, [], MIB, regions * MIB) and count < 5000:
        load, count = Load(pace, load.given + MIB, round_trip), count + 1
    assert count == 5000 or load.given <= max(HOLD_SECONDS * pace, LEAST_REGIONS * MIB)


@given(st.lists(PACES, min_size=1, max_size=6), st.integers(1, 1000), st.floats(0, 0.4))
def test_little_of_small_disks_is_on_its_way_at_once(paces: list[float], regions: int, round_trip: float) -> None:
    disks = regions * MIB
    loads = [Load(pace, 0, round_trip) for pace in paces]
    for _ in range(1000):
        for at, load in enumerate(loads):
            if may_take(load, loads[:at] + loads[at + 1 :], MIB, disks, disks):
                loads[at] = Load(load.pace, load.given + MIB, round_trip)
    long_way = sum(2 * pace * round_trip for pace in paces)
    assert sum(load.given for load in loads) <= LOST_SHARE * disks + long_way + LEAST_REGIONS * MIB * len(loads)


@dataclass
class Way:
    """A stream that delivers at its rate; `room` regions of it fit into its queue and socket."""

    rate: float
    given: int = 0
    part: float = 0.0


def copy_seconds(rates: list[float], regions: int, room: int = 4, step: float = 0.005) -> float:
    """Until all is delivered, when each stream asks whenever it has room."""
    ways, left, now = [Way(rate) for rate in rates], regions, 0.0
    while left or any(way.given for way in ways):
        for way in ways:
            others = [Load(it.rate, it.given * MIB) for it in ways if it is not way]
            while left and way.given < room and may_take(Load(way.rate, way.given * MIB), others, MIB, left * MIB):
                way.given, left = way.given + 1, left - 1
        now += step
        for way in ways:
            way.part = way.part + way.rate * step / MIB if way.given else 0.0
            done = min(int(way.part), way.given)
            way.given, way.part = way.given - done, way.part - done
    return now


def behind_the_best(rates: list[float], regions: int) -> float:
    """By how many seconds the copy ends later than it could at best."""
    return copy_seconds(rates, regions) - regions * MIB / sum(rates)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.2, 1.0, 4.0, 10.0, 40.0, 120.0]), min_size=1, max_size=4), st.integers(20, 200))
def test_streams_of_unequal_speed_end_together(speeds: list[float], regions: int) -> None:
    rates = [speed * MIB for speed in speeds]
    quickest = max(rates)
    assert behind_the_best(rates, regions) <= 0.5 + 4 * MIB / quickest + 0.03 * regions * MIB / sum(rates)


def test_a_slow_stream_that_takes_whatever_it_has_room_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = [100.0 * MIB, 0.5 * MIB]
    assert behind_the_best(rates, 400) < 0.5
    monkeypatch.setitem(globals(), "may_take", lambda mine, others, region, left: True)
    assert behind_the_best(rates, 400) > 4


def test_a_pace_is_what_is_delivered_while_there_is_something_to_deliver() -> None:
    pace = Pace()
    for tick in range(20):
        pace.look(tick / 10, tick * MIB, busy=True)
    assert pace.rate == pytest.approx(10 * MIB)
    for tick in range(20, 60):
        pace.look(tick / 10, 19 * MIB, busy=False)
    assert pace.rate == pytest.approx(10 * MIB), "nothing to do is not slow"
    pace.begin()
    pace.look(6.0, 0, busy=True)
    for tick in range(1, 20):
        pace.look(6 + tick / 10, tick * MIB // 10, busy=True)
    assert pace.rate is not None
    assert MIB < pace.rate < 2 * MIB, "slower from now on, and that shows within seconds"
    for tick in range(20, 60):
        pace.look(6 + tick / 10, 19 * MIB // 10, busy=True)
    assert shares.SLOWEST <= pace.rate < 0.01 * MIB


def test_a_write_takes_the_stream_that_will_have_sent_it_first() -> None:
    dispatcher = Dispatcher([DiskTerms(64 * MIB)], MIB, Limits(MIB * 99, MIB, 2.0))
    dispatcher.copying = True
    dispatcher.add_stream(0)
    dispatcher.add_stream(1)
    first = dispatcher.claim_region(0)
    assert first is not None
    dispatcher.bulk_handed(first)
    dispatcher.streams[0].pace, dispatcher.streams[1].pace = 1.0 * MIB, 100.0 * MIB
    dispatcher.claim_region(1)
    dispatcher.claim_region(1)
    dispatcher.mirrored(0, (0, 4096), bytes(4096), 1, 0.0)
    assert dispatcher.streams[0].queued_bytes == 4096, "4 ms over an idle slow stream are less than 20"
    for cookie in range(2, 40):
        dispatcher.mirrored(0, (0, 4096), bytes(4096), cookie, 0.0)
    assert dispatcher.streams[0].queued_bytes == 39 * 4096, "one region, one stream: order comes first"


def test_the_end_of_a_copy_is_not_given_to_the_slow_stream() -> None:
    dispatcher = Dispatcher([DiskTerms(4 * MIB)], MIB, Limits(MIB * 99, MIB, 2.0))
    dispatcher.copying = True
    dispatcher.add_stream(0)
    dispatcher.add_stream(1)
    dispatcher.streams[0].pace, dispatcher.streams[1].pace = 1.0 * MIB, 100.0 * MIB
    assert dispatcher.left() == 4 * MIB
    assert dispatcher.claim_region(0) is None
    assert dispatcher.claim_region(1) is not None
    assert (dispatcher.given(1), dispatcher.left()) == (MIB, 3 * MIB)
    dispatcher.lose_stream(1)
    assert dispatcher.claim_region(0) is not None, "nobody else is there"
