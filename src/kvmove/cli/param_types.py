"""Parameter types of the command line beyond click's own."""

import re
from datetime import datetime, timedelta

import click

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)")
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}")


class Milliseconds(click.ParamType[int]):
    """A short time, `300ms` or `0.5s`, as whole milliseconds."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a time; write for example 300ms or 0.5s", param, ctx)
        return round(float(match[1]) * (1000 if match[2] == "s" else 1))


class Moment(click.ParamType[str]):
    """`auto`, `manual`, or a time of day: `HH:MM` is the next one on this machine's clock; else RFC 3339."""

    name = "moment"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        if not _TIME_OF_DAY.fullmatch(text):
            return text
        hour, minute = (int(part) for part in text.split(":"))
        if hour > 23 or minute > 59:
            self.fail(f"{text} is no time of day", param, ctx)
        now = datetime.now().astimezone()
        return next_at(now, hour, minute).isoformat()


def next_at(now: datetime, hour: int, minute: int) -> datetime:
    """The next moment after `now` at which a clock in its zone shows that time."""
    today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today if today > now else today + timedelta(days=1)


class Assignment(click.ParamType[tuple[str, str]]):
    """`NAME=VALUE` as a pair."""

    name = "assignment"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, _, wanted = str(value).partition("=")
        if not name or not wanted:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return name, wanted
