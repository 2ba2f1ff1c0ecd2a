"""The log: one line a record in the form that fits, and whose move it is, in tasks and threads alike."""

import asyncio
import io
import json
import logging
import threading
import warnings
from collections.abc import Iterator

import pytest

from kvmove.log_context import current_move, entered_phase, inherited, of_move
from kvmove.logs import RecentLines, set_up_logging

LOG = logging.getLogger("kvmove.tests")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, str]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_of_a_move_says_whose_it_is_and_another_does_not() -> None:
    stream = io.StringIO()
    set_up_logging(stream)
    with of_move("m1", vm="web", src="h1", dst="h2"):
        entered_phase("copying-disks")
        LOG.warning("slow: %s", "very")
    LOG.info("quiet")
    first, second = lines(stream)
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "warning", "logger": "kvmove.tests", "event": "slow: very", "task_id": "m1", "vm": "web", "src": "h1",
        "dst": "h2", "phase": "copying-disks",
    }  # fmt: skip
    assert set(second) == {"time", "level", "logger", "event"}


async def test_tasks_and_threads_that_a_move_begins_log_as_it() -> None:
    stream = io.StringIO()
    set_up_logging(stream)

    async def later(word: str) -> None:
        await asyncio.sleep(0)
        await asyncio.to_thread(LOG.info, word)
        thread = threading.Thread(target=inherited(LOG.info), args=(f"{word} in a thread",))
        thread.start()
        await asyncio.to_thread(thread.join)

    with of_move("m1"):
        one = asyncio.create_task(later("one"))
    with of_move("m2"):
        two = asyncio.create_task(later("two"))
    await asyncio.gather(one, two)
    assert {line["event"]: line["task_id"] for line in lines(stream)} == {
        "one": "m1",
        "one in a thread": "m1",
        "two": "m2",
        "two in a thread": "m2",
    }
    assert current_move.get() == ""


def test_a_phase_that_comes_later_is_told_by_threads_that_were_there_before() -> None:
    seen: list[str] = []
    stream = io.StringIO()
    set_up_logging(stream)
    with of_move("m1"):
        log = inherited(LOG.info)
        entered_phase("switching-over")
        log("now")
        log("and again")
    seen = [line["phase"] for line in lines(stream)]
    assert seen == ["switching-over", "switching-over"]


def test_a_trace_and_line_ends_stay_within_one_line_of_json() -> None:
    stream = io.StringIO()
    set_up_logging(stream)
    try:
        raise ValueError("planted")
    except ValueError:
        LOG.exception("two\nlines")
    (line,) = lines(stream)
    assert line["event"] == "two\nlines"
    assert "ValueError: planted" in line["error"]


def test_a_terminal_gets_lines_for_people() -> None:
    stream = Terminal()
    set_up_logging(stream)
    with of_move("m1", vm="web"):
        LOG.info("hello")
    assert stream.getvalue().rstrip().endswith("INFO kvmove.tests: hello  [task_id=m1 vm=web]")


def test_libraries_and_warnings_take_the_same_way() -> None:
    stream, recent = io.StringIO(), RecentLines(keep=2)
    set_up_logging(stream, recent)
    logging.getLogger("uvicorn.error").info("from uvicorn")
    logging.getLogger("aiohttp.server").error("from aiohttp")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("from a warning", stacklevel=1)
    assert [line["logger"] for line in lines(stream)] == ["uvicorn.error", "aiohttp.server", "py.warnings"]
    assert [line["logger"] for line in recent.lines] == ["aiohttp.server", "py.warnings"]
