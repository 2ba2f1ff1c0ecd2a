"""When a move may begin, as it is written."""

from datetime import datetime, timedelta, timezone

import pytest

from kvmove.errors import InvalidInput
from kvmove.model.move import MoveRequest
from kvmove.model.schedule import opens, parse_start
from kvmove.model.toml_file import fit

ZONE = timezone(timedelta(hours=1))


def at(clock: str, day: int = 23) -> datetime:
    return datetime.fromisoformat(f"2026-11-{day}T{clock}:00+01:00")


@pytest.mark.parametrize(
    ("text", "now", "means"),
    [
        ("22:00", at("08:00"), at("22:00")),
        ("07:30", at("08:00"), at("07:30", day=24)),
        ("08:00", at("08:00"), at("08:00", day=24)),
        ("2026-11-23T22:00:00+01:00", at("08:00"), at("22:00")),
        ("2026-11-23T21:00:00Z", at("08:00"), at("22:00")),
    ],
)
def test_a_start_is_the_next_time_that_the_clock_shows_it_or_a_moment(
    text: str, now: datetime, means: datetime
) -> None:
    assert parse_start(text, now) == means


@pytest.mark.parametrize(
    ("window", "now", "opening"),
    [
        ("22:00-06:00", at("08:00"), at("22:00")),
        ("22:00-06:00", at("22:00"), None),
        ("22:00-06:00", at("05:59"), None),
        ("22:00-06:00", at("06:00"), at("22:00")),
        ("12:00-13:00", at("12:30"), None),
        ("12:00-13:00", at("13:00"), at("12:00", day=24)),
    ],
)
def test_a_window_is_open_from_its_first_minute_until_its_last_time(
    window: str, now: datetime, opening: datetime | None
) -> None:
    assert opens(window, now) == opening


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"at": "25:00"}, "at: '25:00' is no time; write HH:MM, or a full time with its zone"),
        ({"at": "2026-11-23T22:00:00"}, "at: '2026-11-23T22:00:00' is no time"),
        ({"at": "soon"}, "at: 'soon' is no time"),
        ({"window": "22:00"}, "window: '22:00' is no window; write HH:MM-HH:MM"),
        ({"window": "22:00-22:00"}, "is no window"),
        ({"priority": "urgent"}, "priority: Input should be 'low', 'normal' or 'high'"),
    ],
)
def test_what_is_no_time_is_refused_in_plain_words(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        fit({"vm": "web1", "host": "h2", **wrong}, MoveRequest, "the move")
    assert said in caught.value.detail
