"""Restarts follow a policy whose delays grow up to a ceiling and are forgotten after a good run."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.lab.restarts import RestartPolicy, ended_cleanly, next_delay

POLICY = RestartPolicy()


@given(st.lists(st.floats(0, 9.9), min_size=1, max_size=20))
def test_delays_of_a_failing_service_grow_and_stay_below_the_ceiling(runs: list[float]) -> None:
    delay = 0.0
    delays = []
    for ran_for in runs:
        delay = next_delay(POLICY, delay, ran_for)
        delays.append(delay)
    assert delays[0] == POLICY.first
    assert delays == sorted(delays)
    assert max(delays) <= POLICY.ceiling


@given(st.floats(0.2, 5), st.floats(10, 1000))
def test_a_good_run_forgets_the_failures_before_it(previous: float, ran_for: float) -> None:
    assert next_delay(POLICY, previous, ran_for) == POLICY.first


@pytest.mark.parametrize(
    ("returncode", "clean"), [(0, True), (1, False), (-signal.SIGKILL, False), (-signal.SIGTERM, True)]
)
def test_only_a_wished_end_is_clean(returncode: int, clean: bool) -> None:
    assert ended_cleanly(returncode) is clean
