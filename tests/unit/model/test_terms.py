"""The terms of a move: what is taken, and what is refused with a sentence that says what to write."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from kvmove.cli.param_types import next_at
from kvmove.model.terms import MoveTerms, TermsChange
from kvmove.units import MIB


@pytest.mark.parametrize(
    ("written", "meant"),
    [("50MiB", 50 * MIB), ("5Gbit", 625_000_000), ("none", 0), (0, 0), (65_536, 65_536)],
)
def test_a_bandwidth_is_a_rate_or_none(written: object, meant: int) -> None:
    assert MoveTerms.model_validate({"bandwidth": written}).bandwidth == meant
    assert TermsChange.model_validate({"bandwidth": written}).bandwidth == meant


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("bandwidth", "50", "not a rate"),
        ("bandwidth", "1KiB", "at least 64.0 KiB/s, or none"),
        ("switchover", "later", "auto, manual, or a time"),
        ("switchover", "2031-01-02T03:04:05", "does not say its zone"),
        ("max_slowdown", 100, "less than or equal to 99"),
        ("max_write_latency_ms", 0, "greater than or equal to 1"),
        ("policy", "fast", "minimal-downtime"),
    ],
)
def test_what_is_wrong_is_refused(field: str, value: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MoveTerms.model_validate({field: value})


@given(st.datetimes(timezones=st.just(UTC)), st.integers(0, 23), st.integers(0, 59))
def test_a_time_of_day_is_the_next_one(now: datetime, hour: int, minute: int) -> None:
    assume(now.year < 9999)
    found = next_at(now, hour, minute)
    assert (found.hour, found.minute) == (hour, minute)
    assert timedelta() < found - now <= timedelta(days=1)
