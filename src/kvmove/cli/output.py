"""Prints what a command has to say: data on stdout in the form that was asked for, all else on stderr.

Invariant: with `-o json`, `ndjson` or `name`, stdout holds nothing but the data. Tables are never cut in a pipe.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from kvmove.cli.options import Form, Options

Item = TypeVar("Item", bound=BaseModel)

Cells = Mapping[str, str | Text]
"""One row: column heading to what stands in it."""

_PIPE_WIDTH = 1000  # a pipe has no width: wide enough that no table of ours is wrapped


class Listing(NamedTuple):
    """How a kind of thing is listed: its row in a table, its name for `-o name`, and what to say when there is none."""

    row: Callable[[Any], Cells]
    name: Callable[[Any], str]
    empty: str


class Printer:
    """Both outputs of a command. `out` and `err` are Rich consoles on stdout and stderr."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.out = _console(options, stderr=False)
        self.err = _console(options, stderr=True)

    def items(self, items: Sequence[Item], listing: Listing) -> None:
        """A list: table, JSON array, one JSON a line, or one name a line."""
        match self.options.output:
            case Form.JSON:
                self.json([plain(item) for item in items])
            case Form.NDJSON:
                for item in items:
                    self.line(json.dumps(plain(item)))
            case Form.NAME:
                for item in items:
                    self.line(listing.name(item))
            case Form.TABLE if items:
                self.show(table([listing.row(item) for item in items]))
            case Form.TABLE:
                self.note(listing.empty)

    def item(self, item: BaseModel, name: str, details: Callable[[], RenderableType]) -> None:
        """One thing: as `details` renders it for people, or as JSON, or its name."""
        match self.options.output:
            case Form.JSON:
                self.json(plain(item))
            case Form.NDJSON:
                self.line(json.dumps(plain(item)))
            case Form.NAME:
                self.line(name)
            case Form.TABLE:
                self.show(details())

    def show(self, content: RenderableType) -> None:
        """Data for people, on stdout."""
        _print(self.out, content)

    def aside(self, content: RenderableType) -> None:
        """What is for people and no data, on stderr."""
        _print(self.err, content)

    def json(self, data: Any) -> None:
        self.line(json.dumps(data, indent=2, ensure_ascii=False))

    def line(self, text: str) -> None:
        """One line of data, as it is."""
        self.out.file.write(text + "\n")
        self.out.file.flush()

    def note(self, text: str) -> None:
        """Something a person may want to know; not data. Silent with -q."""
        if not self.options.quiet:
            self.err.print(printable(text), soft_wrap=True)


def plain(item: BaseModel) -> Any:
    """The thing as JSON has it."""
    return item.model_dump(mode="json")


def printable(text: str) -> str:
    """Text from elsewhere without what would steer the terminal: escape sequences and other control characters."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def table(rows: Sequence[Cells]) -> Table:
    """Columns headed by the rows' keys; text that is a number with its unit still reads from the left."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in rows[0]:
        made.add_column(heading.upper(), overflow="fold")
    for row in rows:
        made.add_row(*row.values())
    return made


def facts(pairs: Mapping[str, str | Text]) -> Table:
    """`name: value` lines for one thing; empty values are left out."""
    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs.items():
        if value:
            made.add_row(f"{name}:", value)
    return made


def _print(console: Console, content: RenderableType) -> None:
    """In a pipe without the blanks that fill a terminal's lines."""
    if console.is_terminal:
        console.print(content)
        return
    with console.capture() as lines:
        console.print(content)
    console.file.writelines(f"{line.rstrip()}\n" for line in lines.get().splitlines())
    console.file.flush()


def _console(options: Options, *, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,
        width=None if stream.isatty() else _PIPE_WIDTH,
        no_color=True if options.color is False else None,
        highlight=False,
        markup=False,
        soft_wrap=False,
    )
