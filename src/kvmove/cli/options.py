"""The options that every command takes, before or after its name: how to print, and which manager to ask.

Invariant: an option after the command wins over the same one before it, that over the environment, and that over the
user's configuration file (`settings`). This file holds what was asked for; it opens nothing and prints nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import click

from kvmove.cli.param_types import OneOf


class Form(StrEnum):
    """How a command prints what it has to say on stdout."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NDJSON = "ndjson"
    NAME = "name"


WIDE = "wide"
"""A table with all its columns: a way to print a table, not another form."""

FORMS = ["table", WIDE, *(form.value for form in Form if form is not Form.TABLE)]


@dataclass
class Options:
    """What the global options say. `color` None: as the terminal can. `wide` and `columns` are for tables: all columns
    that there are, or these and no others."""

    output: Form = Form.TABLE
    wide: bool = False
    columns: tuple[str, ...] = ()
    server: str | None = None
    context: str | None = None
    pki: Path | None = None
    quiet: bool = False
    verbose: int = 0
    color: bool | None = None

    @property
    def machine_readable(self) -> bool:
        """Whether a program reads along: then errors are JSON too."""
        return self.output in (Form.JSON, Form.YAML, Form.NDJSON)


pass_options = click.make_pass_decorator(Options, ensure=True)
"""Gives a command the `Options` as its first argument."""


def _keep(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(ctx.ensure_object(Options), field, value)

    return keep


def _form(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        options = ctx.ensure_object(Options)
        options.wide = value == WIDE
        options.output = Form.TABLE if options.wide else Form(value)


def _json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Options).output = Form.JSON


def _columns(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Options).columns = tuple(name.strip() for name in value.split(",") if name.strip())


def _no_color(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Options).color = False


def _quiet(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Options).quiet = True


def _verbose(ctx: click.Context, _param: click.Parameter, value: int) -> None:
    if value:
        ctx.ensure_object(Options).verbose = value


def global_options(*, on_command: bool) -> list[click.Parameter]:
    """The options; on a command all but -o stay out of the help, which the group's help has already."""
    settings: dict[str, Any] = {"expose_value": False, "is_eager": True}
    rare = settings | {"hidden": on_command}
    return [
        click.Option(
            ["-o", "--output"], type=OneOf(FORMS), callback=_form,
            envvar=None if on_command else "KVMOVE_OUTPUT",  # what stands before the command wins over it
            help="How to print: for people, as JSON or YAML, one JSON a line, or names alone.", **settings,
        ),
        click.Option(["--json"], is_flag=True, callback=_json, help="The same as -o json.", **rare),
        click.Option(
            ["--columns"], metavar="NAME,...", callback=_columns,
            help="These columns of a table, in this order.", **rare,
        ),
        click.Option(
            ["--server"], metavar="URL", callback=_keep("server"),
            help="The manager, https://HOST:7440 or unix:/PATH (KVMOVE_SERVER).", **rare,
        ),
        click.Option(
            ["--context"], metavar="NAME", callback=_keep("context"),
            help="A manager of your configuration file (KVMOVE_CONTEXT).", **rare,
        ),
        click.Option(
            ["--pki"], metavar="FOLDER", type=click.Path(path_type=Path), callback=_keep("pki"),
            help="Your certificate, for https (KVMOVE_PKI).", **rare,
        ),
        click.Option(["-q", "--quiet"], is_flag=True, callback=_quiet, help="No progress, no notes.", **rare),
        click.Option(["-v", "--verbose"], count=True, callback=_verbose, help="Show where kvmove fails.", **rare),
        click.Option(["--no-color"], is_flag=True, callback=_no_color, help="No colours (NO_COLOR).", **rare),
    ]  # fmt: skip


class Command(click.Command):
    """A command that takes the global options after its name too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *global_options(on_command=True)]


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
