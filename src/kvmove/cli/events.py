"""`kvmove events`: what happened, and what happens."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Protocol

import click
from rich.text import Text

from kvmove.cli.options import Command, Form, Options, pass_options
from kvmove.cli.output import Cells, Listing, Printer, plain, printable
from kvmove.cli.param_types import Ago, OneOf
from kvmove.cli.rows import local_time
from kvmove.cli.session import ask
from kvmove.errors import InvalidInput, Unreachable
from kvmove.model.event import Event, PastEvents, Reset, Topic

RETRY_SECONDS = 1.0
_STYLE = {Topic.TASK: "cyan", Topic.VM: "green", Topic.HOST: "magenta"}


class Told(Protocol):
    """What is needed of the manager: see `client.ManagerClient`."""

    async def past_events(self, since: str, topics: Sequence[Topic] = (), /) -> PastEvents: ...
    def events(
        self, topics: Sequence[Topic] = (), after: int | None = None, /
    ) -> AsyncGenerator[Event | Reset, None]: ...


@click.command(cls=Command)
@click.option("--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option("--since", type=Ago(), default=None, help="How far back: 90s, 15m, 1h.  [default: 1h; now with --follow]")
@click.option("--topic", "topics", multiple=True, type=OneOf([it.value for it in Topic]), help="Only of these.")
@click.option("--all", "everything", is_flag=True, help="Also figures that run on, such as a move's progress.")
@pass_options
def events(options: Options, follow: bool, since: timedelta | None, topics: tuple[str, ...], everything: bool) -> None:
    """What happened to tasks, VMs and hosts, oldest first; with --follow, what happens from now on."""
    printer = Printer(options)
    wanted = tuple(Topic(name) for name in topics)
    if follow and options.output in (Form.JSON, Form.YAML):
        raise InvalidInput(f"--follow has no end, and {options.output} one", hint="use -o ndjson")
    back = since if since is not None else timedelta(hours=0 if follow else 1)
    ask(options, lambda manager: Reading(manager, printer, wanted, everything).run(back, follow))


class Reading:
    """One command's reading; `_last` is the revision that was printed last."""

    def __init__(
        self,
        manager: Told,
        printer: Printer,
        topics: Sequence[Topic],
        everything: bool,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._manager = manager
        self._printer = printer
        self._topics = topics
        self._everything = everything
        self._retry_seconds = retry_seconds
        self._last: int | None = None

    async def run(self, back: timedelta, follow: bool) -> None:
        since = (datetime.now(UTC) - back).isoformat(timespec="seconds")
        past = await self._manager.past_events(since, self._topics)
        if back and datetime.fromisoformat(past.complete_since) > datetime.fromisoformat(since):
            self._printer.note(f"The manager remembers what happened since {local_time(past.complete_since)}.")
        if not follow:
            self._printer.items(past.events, _EVENTS)
            return
        for event in past.events:
            self._show(event)
        await self._follow()

    async def _follow(self) -> None:
        """What the present state is was asked for by nobody: after a reset only what is newer is shown."""
        silent = False
        while True:
            try:
                async with aclosing(self._manager.events(self._topics, self._last)) as stream:
                    newest = 0
                    async for event in stream:
                        silent = False
                        if isinstance(event, Reset):
                            self._tell_gap(event)
                            newest = event.revision
                        elif event.revision > newest and (event.lasting or self._everything):
                            self._show(event)
                        if not isinstance(event, Reset):
                            self._last = max(self._last or 0, event.revision)
            except Unreachable as error:
                if not silent:
                    self._printer.note(f"The manager does not answer; trying again. ({error.detail})")
                silent = True
            await asyncio.sleep(self._retry_seconds)

    def _tell_gap(self, reset: Reset) -> None:
        if self._last is not None:
            self._printer.note(f"Events may be missing here: {reset.why}.")

    def _show(self, event: Event) -> None:
        self._last = max(self._last or 0, event.revision)
        if self._printer.options.output is Form.NDJSON:
            self._printer.line(json.dumps(plain(event)))
        elif self._printer.options.output is Form.NAME:
            self._printer.line(event.key)
        else:
            line = Text.assemble(
                (local_time(event.time), "dim"), "  ", (f"{event.topic:<4}", _STYLE[event.topic]), "  ",
                printable(event.what),
            )  # fmt: skip
            self._printer.out.print(line, soft_wrap=True)


def _row(event: Event) -> Cells:
    return {
        "time": local_time(event.time),
        "about": Text(event.topic, style=_STYLE[event.topic]),
        "what": printable(event.what),
    }


def _more(event: Event) -> Cells:
    return {"change": event.change, "key": event.key, "revision": str(event.revision)}


_EVENTS = Listing(_row, lambda event: event.key, "Nothing happened in that time.", _more)
