"""`kvmove events` and `kvmove top`: what was, what comes, over a manager that goes away, and the picture."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from kvmove.cli.events import Reading
from kvmove.cli.options import Form, Options
from kvmove.cli.output import Printer
from kvmove.cli.top_view import Cluster, render
from kvmove.errors import Unreachable
from kvmove.model.event import Change, Event, PastEvents, Reset, Topic
from kvmove.model.host import HostStatus
from kvmove.model.task import TaskState
from tests.support import samples
from tests.support.fake_manager import FakeManager
from tests.unit.cli.conftest import Kvmove

HOST = HostStatus(name="h1", control="10.0.0.1:7441", reachable=True, info=samples.host_info())
SINCE = "2026-11-23T00:00:00+00:00"


def event(revision: int, what: str = "web1 is running on h1", *, lasting: bool = True) -> Event:
    return Event(
        revision=revision, time="2026-11-23T10:00:00.000+00:00", topic=Topic.VM, key="web1", change=Change.CHANGED,
        lasting=lasting, what=what, vm=samples.vm(),
    )  # fmt: skip


class Stream:
    """A manager whose stream breaks after each of `parts`; `asked` holds the revisions to go on after."""

    def __init__(self, past: list[Event], parts: list[list[Event | Reset]]) -> None:
        self.past = past
        self.parts = parts
        self.asked: list[int | None] = []
        self.over = asyncio.Event()

    async def past_events(self, _since: str, _topics: Sequence[Topic] = ()) -> PastEvents:
        return PastEvents(events=tuple(self.past), complete_since=SINCE)

    async def events(
        self, _topics: Sequence[Topic] = (), after: int | None = None
    ) -> AsyncGenerator[Event | Reset, None]:
        self.asked.append(after)
        if not self.parts:
            self.over.set()
            await asyncio.Event().wait()
        for item in self.parts.pop(0):
            yield item
        raise Unreachable("the stream broke")


async def followed(stream: Stream, *, everything: bool = False, back: timedelta = timedelta(0)) -> None:
    reading = Reading(stream, Printer(Options(output=Form.NDJSON)), (), everything, retry_seconds=0.0)
    running = asyncio.create_task(reading.run(back, follow=True))
    await stream.over.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def told(capsys: pytest.CaptureFixture[str]) -> tuple[list[int], str]:
    out, err = capsys.readouterr()
    return [json.loads(line)["revision"] for line in out.splitlines()], err


async def test_following_goes_on_where_it_broke_and_tells_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    beginning: list[Event | Reset] = [Reset(revision=10, why="this is the beginning"), event(4), event(9), event(11)]
    stream = Stream([], [beginning, [event(12)]])
    await followed(stream)
    assert stream.asked == [None, 11, 12]
    revisions, err = told(capsys)
    assert revisions == [11, 12]
    assert err.count("does not answer") == 2


async def test_what_was_asked_for_from_the_past_joins_what_comes(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Stream([event(3), event(5)], [[event(6), event(7, lasting=False)]])
    await followed(stream, back=timedelta(hours=1))
    assert stream.asked[0] == 5
    assert told(capsys)[0] == [3, 5, 6]


async def test_figures_that_run_on_are_told_when_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Stream([event(1)], [[event(2, lasting=False)]])
    await followed(stream, everything=True, back=timedelta(hours=1))
    assert told(capsys)[0] == [1, 2]


async def test_a_gap_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Stream([event(1)], [[Reset(revision=50, why="too much has happened since"), event(40), event(51)]])
    await followed(stream, back=timedelta(hours=1))
    revisions, err = told(capsys)
    assert revisions == [1, 51]
    assert "too much has happened since" in err


def test_the_past_is_listed_and_how_far_back_it_goes_is_told(kvmove: Kvmove, manager: FakeManager) -> None:
    manager.answers["GET /events:past"] = PastEvents(events=(event(1),), complete_since=datetime.now(UTC).isoformat())
    done = kvmove("events", "--since", "1h")
    assert "web1 is running on h1" in done.out
    assert "remembers what happened since" in done.err
    assert json.loads(kvmove("events", "--json").out)[0]["vm"]["host"] == "h1"


@pytest.mark.parametrize("words", [("--since", "yesterday"), ("--topic", "vms"), ("--follow", "-o", "json")])
def test_what_makes_no_sense_is_refused(kvmove: Kvmove, words: tuple[str, ...]) -> None:
    assert kvmove("events", *words).code == 2


@pytest.mark.parametrize("width", [80, 120])
def test_the_picture_fits_and_has_hosts_and_moves(width: int) -> None:
    cluster = Cluster()
    cluster.fill([HOST], [samples.vm()], [samples.task()])
    ended = samples.task(TaskState.SUCCEEDED, vm_state="running on h2")
    cluster.take(event(1).model_copy(update={"topic": Topic.TASK, "vm": None, "task": ended, "key": "other"}))
    console = Console(width=width, file=None)
    with console.capture() as captured:
        console.print(render(cluster, "The manager does not answer"))
    lines = captured.get().splitlines()
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    for wanted in ("h1", "6.0 GiB free", "copying disks", "42", "117.0 MiB/s", "9.0 s", "running on h2", "not answer"):
        assert wanted in text


def test_the_view_follows_events_and_starts_anew_after_a_reset() -> None:
    cluster = Cluster()
    assert cluster.take(event(5)) == 5
    assert set(cluster.vms) == {"web1"}
    cluster.take(event(6).model_copy(update={"change": Change.REMOVED}))
    assert cluster.vms == {}
    cluster.fill([HOST], [], [])
    assert cluster.take(Reset(revision=9, why="")) is None
    assert cluster.hosts == {}


def test_top_is_printed_once_where_there_is_no_terminal(kvmove: Kvmove, manager: FakeManager) -> None:
    manager.answers["GET /hosts"] = [HOST]
    manager.answers["GET /vms"] = [samples.vm()]
    manager.answers["GET /tasks"] = [samples.task(), samples.task(TaskState.FAILED)]
    assert "copying disks" in kvmove("top").out
    found = json.loads(kvmove("top", "--json").out)
    assert [len(found[name]) for name in ("hosts", "vms", "tasks")] == [1, 1, 1]
