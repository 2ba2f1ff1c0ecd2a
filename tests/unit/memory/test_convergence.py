"""Convergence: the pause grows step by step to the operator's limit, and never without end."""

from hypothesis import given
from hypothesis import strategies as st

from kvmove.memory.convergence import GIVE_UP_ROUNDS, Convergence, GiveUp, RaiseDowntimeLimit


@given(st.integers(10, 60_000), st.lists(st.integers(0, 3), max_size=80))
def test_the_limit_only_grows_and_stays_within_the_operators(limit: int, steps: list[int]) -> None:
    convergence = Convergence(limit)
    current = convergence.first_limit_ms
    assert 0 < current <= limit
    rounds = 0
    for step in steps:
        rounds += step
        decision = convergence.observe(rounds, 0)
        if isinstance(decision, RaiseDowntimeLimit):
            assert current < decision.milliseconds <= limit
            current = decision.milliseconds
        assert isinstance(decision, GiveUp) == (rounds >= GIVE_UP_ROUNDS)


def test_a_guest_that_converges_at_once_gets_the_shortest_pause() -> None:
    convergence = Convergence(400)
    assert convergence.first_limit_ms == 100
    assert convergence.observe(1, 0) is None


def test_the_whole_limit_is_allowed_in_the_end() -> None:
    assert Convergence(400).observe(5, 0) == RaiseDowntimeLimit(400)


def test_giving_up_says_why() -> None:
    decision = Convergence(300).observe(GIVE_UP_ROUNDS, 99)
    assert isinstance(decision, GiveUp)
    assert "99 %" in decision.reason
    assert "300 ms" in decision.reason
