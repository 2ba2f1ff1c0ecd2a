"""Convergence: what gives way is the policy's; no limit is passed that it keeps, and it always comes to an end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.memory.convergence import (
    GIVE_UP_EARLY_ROUNDS,
    GIVE_UP_ROUNDS,
    SUSPEND_ROUNDS,
    Convergence,
    GiveUp,
    RaiseDowntimeLimit,
    Reading,
)
from kvmove.model.terms import Policy
from kvmove.units import MIB

LOSING = Reading(0, 0, dirty_rate=80 * MIB, sent_rate=40 * MIB, remaining=400 * MIB)
WINNING = Reading(0, 0, dirty_rate=10 * MIB, sent_rate=40 * MIB, remaining=400 * MIB)

READINGS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 99), *(st.integers(0, 2**36) for _ in range(3))), max_size=100
)


@given(st.integers(10, 60_000), st.sampled_from(Policy), READINGS)
def test_the_limit_only_grows_and_stays_within_the_operators(
    limit: int, policy: Policy, steps: list[tuple[int, int, int, int, int]]
) -> None:
    convergence = Convergence(limit, policy)
    current = convergence.limit_ms
    assert 0 < current <= limit
    rounds = 0
    for more, *figures in steps:
        rounds += more
        decision = convergence.observe(Reading(rounds, *figures))
        if isinstance(decision, RaiseDowntimeLimit):
            assert current < decision.milliseconds
            current = decision.milliseconds
        if policy is not Policy.SUSPEND_IF_NEEDED or rounds < SUSPEND_ROUNDS:
            assert current <= limit
        if isinstance(decision, GiveUp):
            assert policy is not Policy.SUSPEND_IF_NEEDED
            return
        assert policy is Policy.SUSPEND_IF_NEEDED or rounds < GIVE_UP_ROUNDS


@given(st.integers(SUSPEND_ROUNDS, 500), st.integers(1, 2**36), st.integers(1, 2**30))
def test_a_guest_that_may_be_suspended_always_ends(rounds: int, remaining: int, sent_rate: int) -> None:
    convergence = Convergence(300, Policy.SUSPEND_IF_NEEDED)
    convergence.observe(Reading(rounds, 99, 2**40, sent_rate, remaining))
    assert convergence.limit_ms >= min(remaining / sent_rate * 1000, 2_000_000)


def test_a_guest_that_converges_at_once_gets_the_shortest_pause() -> None:
    convergence = Convergence(400)
    assert convergence.limit_ms == 100
    assert convergence.observe(WINNING._replace(rounds=1)) is None
    assert convergence.remark == ""


def test_the_whole_limit_is_allowed_in_the_end() -> None:
    decision = Convergence(400).observe(WINNING._replace(rounds=5))
    assert isinstance(decision, RaiseDowntimeLimit)
    assert decision.milliseconds == 400


def test_giving_up_says_why() -> None:
    decision = Convergence(300).observe(LOSING._replace(rounds=GIVE_UP_ROUNDS, throttle=99))
    assert isinstance(decision, GiveUp)
    assert "99 %" in decision.reason
    assert "300 ms" in decision.reason


def test_it_is_told_early_that_memory_will_not_converge() -> None:
    convergence = Convergence(300, Policy.MINIMAL_DOWNTIME)
    assert convergence.max_slowdown == 0
    for rounds in (1, 2, 3):
        assert not isinstance(convergence.observe(LOSING._replace(rounds=rounds)), GiveUp)
    said = "will not converge: the guest changes 80.0 MiB/s of its memory, 40.0 MiB/s are sent"
    assert convergence.remark == said
    for rounds in range(4, GIVE_UP_EARLY_ROUNDS + 1):
        assert not isinstance(convergence.observe(LOSING._replace(rounds=rounds)), GiveUp)
    assert isinstance(convergence.observe(LOSING._replace(rounds=GIVE_UP_EARLY_ROUNDS + 1)), GiveUp)


def test_one_good_round_is_not_held_against_the_guest() -> None:
    convergence = Convergence(300, Policy.MINIMAL_DOWNTIME)
    for rounds in range(1, 30):
        reading = WINNING if rounds % 3 == 0 else LOSING
        assert not isinstance(convergence.observe(reading._replace(rounds=rounds)), GiveUp)


def test_the_expected_pause_is_told() -> None:
    convergence = Convergence(300, Policy.SUSPEND_IF_NEEDED)
    decision = convergence.observe(LOSING._replace(rounds=SUSPEND_ROUNDS))
    assert isinstance(decision, RaiseDowntimeLimit)
    assert decision.milliseconds == 12_501
    assert convergence.remark.startswith("the guest will be paused for about 12.5 s")


@pytest.mark.parametrize("limit", [50, 1000])
def test_the_operator_may_change_the_limit(limit: int) -> None:
    convergence = Convergence(300)
    convergence.observe(WINNING._replace(rounds=5))
    convergence.allow(limit)
    assert convergence.limit_ms <= limit
    convergence.observe(WINNING._replace(rounds=6))
    assert convergence.limit_ms == limit
