"""What a copy costs the guest: told within a bound, and lowered while it is above the operator's budget."""

from hypothesis import given
from hypothesis import strategies as st

from kvmove.mover.guest_impact import LEAST_RATE, LOOK_SECONDS, P99, BulkRate, GuestImpact, HoldTimes
from kvmove.units import MIB


@given(st.lists(st.floats(1e-5, 60.0), min_size=1, max_size=300), st.floats(0.01, 1.0))
def test_a_percentile_is_an_upper_bound_that_is_near(times: list[float], share: float) -> None:
    held = HoldTimes()
    for seconds in times:
        held.note(seconds)
    ordered = sorted(times)
    exact = next(value for place, value in enumerate(ordered) if place + 1 >= share * len(ordered))
    assert exact <= held.percentile(share) <= max(exact * 1.2, 1e-5)
    assert held.worst == ordered[-1]


def test_nothing_seen_is_zero() -> None:
    assert HoldTimes().percentile(P99) == 0.0


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 2**33)), max_size=80))
def test_the_limit_is_never_below_the_least_and_only_a_late_write_brings_one(looks: list[tuple[bool, float]]) -> None:
    rate = BulkRate()
    for too_late, sent in looks:
        before = rate.limit
        limit = rate.look(too_late=too_late, sent_rate=min(sent, before or sent), seconds=LOOK_SECONDS)
        assert limit is None or limit >= LEAST_RATE
        if before is None and limit is not None:
            assert too_late
        if too_late and before is not None:
            assert limit is not None
            assert limit <= before


@given(st.integers(2 * MIB, 2**32), st.integers(2, 50))
def test_it_finds_the_rate_that_the_guest_bears(wire: int, part: int) -> None:
    """A guest whose writes are held too long whenever bulk takes more than a part of the wire."""
    bearable = max(wire // part, 4 * LEAST_RATE)
    rate, sent, late = BulkRate(), float(wire), 0
    for look in range(200):
        late += sent > bearable and look >= 20
        limit = rate.look(too_late=sent > bearable, sent_rate=sent, seconds=LOOK_SECONDS)
        sent = float(min(wire, limit if limit is not None else wire))
    assert late <= 60  # of 180


def test_once_the_guest_is_well_the_copy_runs_freely_again() -> None:
    rate = BulkRate()
    assert rate.look(too_late=True, sent_rate=100 * MIB, seconds=LOOK_SECONDS) == 50 * MIB
    for _ in range(12):
        sent = min(float(rate.limit or 100 * MIB), 100 * MIB)
        rate.look(too_late=False, sent_rate=sent, seconds=LOOK_SECONDS)
    assert rate.limit is None
    slowed = rate.slowed_seconds
    assert slowed > 0
    rate.look(too_late=True, sent_rate=0.0, seconds=LOOK_SECONDS)
    assert (rate.limit, rate.slowed_seconds) == (None, slowed), "a copy that sends nothing cannot be slowed"


@given(st.integers(100, 5000))
def test_one_late_write_of_a_hundred_may_be(writes: int) -> None:
    impact = GuestImpact(1, budget=0.02)
    impact.look(0.0, 0)
    late = writes // 100
    for number in range(writes):
        impact.answered(0, 0.5 if number < late else 0.001)
    assert impact.look(LOOK_SECONDS, MIB) == (False, None)
    for number in range(writes):
        impact.answered(0, 0.5 if number < late + late + 2 else 0.001)
    assert impact.look(2 * LOOK_SECONDS, 2 * MIB)[0]


def test_a_write_that_is_held_still_counts() -> None:
    impact = GuestImpact(1, budget=0.02)
    impact.look(0.0, 0)
    impact.waits(0, cookie=7, arrived=0.1)
    assert impact.look(LOOK_SECONDS, 50 * MIB) == (True, 50 * MIB)
    impact.released(0, 7, 1.1)
    assert impact.held[0].worst == 1.0


def test_without_a_budget_it_only_watches() -> None:
    impact = GuestImpact(2)
    impact.look(0.0, 0)
    impact.answered(1, 3.0)
    assert impact.look(1.0, 50 * MIB) == (False, None)
    assert (impact.held[0].count, impact.held[1].count) == (0, 1)
