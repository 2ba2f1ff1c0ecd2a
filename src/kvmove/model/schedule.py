"""When a move may begin, as a person writes it: `HH:MM` or a full time, and a daily window `HH:MM-HH:MM`.

Pure: the present comes in, and with it the time zone in which HH:MM is meant (the manager's).
"""

from datetime import datetime, time, timedelta
from typing import Annotated

from pydantic import AfterValidator


def parse_start(text: str, now: datetime) -> datetime:
    """The moment that `text` means: `HH:MM` is the next time that the clock shows it, else RFC 3339 with its zone.

    :raise ValueError: it is neither.
    """
    clock = _time_of_day(text)
    if clock is not None:
        return _next(clock, now)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"{text!r} is no time; write HH:MM, or a full time with its zone: 2026-11-23T22:00:00+01:00")
    return moment


def parse_window(text: str) -> tuple[time, time]:
    """The two ends of a daily window; it may reach over midnight.

    :raise ValueError: it is none, or empty.
    """
    first, dash, last = text.partition("-")
    begin, end = _time_of_day(first), _time_of_day(last)
    if not dash or begin is None or end is None or begin == end:
        raise ValueError(f"{text!r} is no window; write HH:MM-HH:MM, say 22:00-06:00")
    return begin, end


def opens(window: str, now: datetime) -> datetime | None:
    """When the window opens next; None: it is open now. Its first minute belongs to it, its last time does not."""
    begin, end = parse_window(window)
    clock = now.time().replace(second=0, microsecond=0)
    inside = begin <= clock < end if begin < end else clock >= begin or clock < end
    return None if inside else _next(begin, now)


def _next(clock: time, now: datetime) -> datetime:
    today = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
    return today if today > now else today + timedelta(days=1)


def _time_of_day(text: str) -> time | None:
    if len(text) != 5:
        return None
    try:
        return time.fromisoformat(text)
    except ValueError:
        return None


def _start(text: str) -> str:
    parse_start(text, datetime.min)
    return text


def _window(text: str) -> str:
    parse_window(text)
    return text


StartTime = Annotated[str, AfterValidator(_start)]
"""A text that `parse_start` takes."""

Window = Annotated[str, AfterValidator(_window)]
"""A text that `parse_window` takes."""
