"""Parameter types of the command line beyond click's own."""

import re

import click

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)")


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


class Assignment(click.ParamType[tuple[str, str]]):
    """`NAME=VALUE` as a pair."""

    name = "assignment"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, _, wanted = str(value).partition("=")
        if not name or not wanted:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return name, wanted
