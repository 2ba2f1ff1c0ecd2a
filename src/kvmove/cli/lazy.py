"""Command groups that load a command's module only when the command is used, so that `kvmove --help` is quick.

Invariant: the table (name, where it is, one line of help) is all that listing the commands needs.
"""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem


class Entry(NamedTuple):
    """Where a command is (`package.module:name`) and what it does, in one line."""

    target: str
    help: str


def load(target: str) -> Any:
    """The object `package.module:name`."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


class LazyGroup(click.Group):
    """A group whose commands are listed in `entries`; with a hint at close names for a command that there is not."""

    entries: Mapping[str, Entry] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.entries, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.entries.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        command: click.Command = load(entry.target)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=2)
            if not close:
                raise
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {' or '.join(close)}?", ctx) from error

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name, help=it.help) for name, it in self.entries.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, entry.help) for name, entry in self.entries.items()]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
        else:
            super().format_commands(ctx, formatter)
