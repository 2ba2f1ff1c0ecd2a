"""Prints what a command has to say: data on stdout in the form that was asked for, all else on stderr.

Invariant: with `-o json`, `yaml`, `ndjson` or `name`, stdout holds nothing but the data. No table is cut in a pipe.
"""

import difflib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from kvmove.cli.lazy import load
from kvmove.cli.options import Form, Options
from kvmove.errors import InvalidInput

Item = TypeVar("Item", bound=BaseModel)

Cells = Mapping[str, str | Text]
"""One row: column heading to what stands in it."""

_PIPE_WIDTH = 1000  # a pipe has no width: wide enough that no table of ours is wrapped


class Listing(NamedTuple):
    """How a kind of thing is listed: its row in a table, its name for `-o name`, and what to say when there is none;
    `more` are the columns of `-o wide`, for what is not needed every day."""

    row: Callable[[Any], Cells]
    name: Callable[[Any], str]
    empty: str
    more: Callable[[Any], Cells] = lambda _item: {}


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
            case Form.YAML:
                self.yaml([plain(item) for item in items])
            case Form.NDJSON:
                for item in items:
                    self.line(json.dumps(plain(item)))
            case Form.NAME:
                for item in items:
                    self.line(listing.name(item))
            case Form.TABLE if items:
                self.show(table(self._rows(items, listing)))
            case Form.TABLE:
                self.note(listing.empty)

    def item(self, item: BaseModel, name: str, details: Callable[[], RenderableType]) -> None:
        """One thing: as `details` renders it for people, or as JSON, or its name."""
        match self.options.output:
            case Form.JSON:
                self.json(plain(item))
            case Form.YAML:
                self.yaml(plain(item))
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

    def yaml(self, data: Any) -> None:
        """PyYAML is loaded only now: it is slow to load, and few ask for it."""
        self.line(load("yaml:safe_dump")(data, sort_keys=False, allow_unicode=True).rstrip("\n"))

    def _rows(self, items: Sequence[Item], listing: Listing) -> list[Cells]:
        """The table's rows with the columns that were asked for.

        :raise InvalidInput: there is no such column.
        """
        columns = self.options.columns
        if not columns and not self.options.wide:
            return [listing.row(item) for item in items]
        rows: list[Cells] = [{**listing.row(item), **listing.more(item)} for item in items]
        return [_only(row, columns) for row in rows] if columns else rows

    def line(self, text: str) -> None:
        """One line of data, as it is."""
        self.out.file.write(text + "\n")
        self.out.file.flush()

    def note(self, text: str) -> None:
        """Something a person may want to know; not data. Silent with -q."""
        if not self.options.quiet:
            self.err.print(printable(text), soft_wrap=True)


def _only(row: Cells, columns: Sequence[str]) -> Cells:
    known = {name.lower(): name for name in row}
    for column in columns:
        if column.lower() not in known:
            close = difflib.get_close_matches(column.lower(), known, n=1)
            said = f"did you mean {known[close[0]]!r}? " if close else ""
            raise InvalidInput(f"there is no column {column!r}", hint=f"{said}there are: {', '.join(row)}")
    return {known[column.lower()]: row[known[column.lower()]] for column in columns}


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
