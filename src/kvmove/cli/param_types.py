"""Parameter types of the command line beyond click's own."""

import difflib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import click
from click.shell_completion import CompletionItem

from kvmove.cli.lazy import load

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)")
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}")
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_AGO_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


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


class OneOf(click.Choice[str]):
    """One of some words; with a hint at the one that may have been meant."""

    def __init__(self, choices: Sequence[str]) -> None:
        super().__init__(choices)

    def get_invalid_choice_message(self, value: object, ctx: click.Context | None) -> str:
        close = difflib.get_close_matches(str(value), self.choices, n=1)
        said = super().get_invalid_choice_message(value, ctx)
        return f"{said} Did you mean {close[0]!r}?" if close else said


class LiveName(click.ParamType[str]):
    """The name of something that the manager knows; the shell completes it with what there is now."""

    def __init__(self, name: str) -> None:
        self.name = name

    def shell_complete(self, ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        known: Mapping[str, str] = load("kvmove.cli.live_names:known_names")(self.name, ctx.find_root().obj)
        return [CompletionItem(name, help=said or None) for name, said in known.items() if name.startswith(incomplete)]


VM = LiveName("vm")
HOST = LiveName("host")
DATASTORE = LiveName("datastore")
TASK = LiveName("task")


class Ago(click.ParamType[timedelta]):
    """How long ago: `90s`, `15m`, `1h`, `2d`."""

    name = "ago"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        match = _AGO.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a time span; write for example 90s, 15m, 1h or 2d", param, ctx)
        return timedelta(**{_AGO_UNITS[match[2]]: float(match[1])})


class Assignment(click.ParamType[tuple[str, str]]):
    """`NAME=VALUE` as a pair."""

    name = "assignment"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, _, wanted = str(value).partition("=")
        if not name or not wanted:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return name, wanted
