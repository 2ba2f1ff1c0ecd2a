"""What a daemon keeps of each move's log: by the context that works for it, or the id in the line."""

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest

from kvmove import move_log
from kvmove.log_context import inherited, of_move
from kvmove.move_log import MoveLog

A, B = "a" * 16, "b" * 16


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, MoveLog]]:
    logger, kept = logging.getLogger("kvmove.tested"), MoveLog("h1")
    logger.setLevel(logging.INFO)
    logger.addHandler(kept)
    yield logger, kept
    logger.removeHandler(kept)


def texts(kept: MoveLog, move_id: str) -> list[str]:
    return [line.text for line in kept.of(move_id)]


async def test_a_line_belongs_to_the_move_that_its_task_works_for(log: tuple[logging.Logger, MoveLog]) -> None:
    logger, kept = log

    async def work(name: str) -> None:
        await asyncio.sleep(0)
        logger.info("%s works", name)

    with of_move(A):
        first = asyncio.create_task(work("first"))
    with of_move(B):
        second = asyncio.create_task(work("second"))
    await asyncio.gather(first, second)
    logger.info("nobody's")
    assert (texts(kept, A), texts(kept, B)) == (["first works"], ["second works"])
    assert [(line.place, line.level) for line in kept.of(A)] == [("h1", "INFO")]


def test_a_line_that_names_a_move_or_its_task_belongs_to_it(log: tuple[logging.Logger, MoveLog]) -> None:
    logger, kept = log
    logger.warning("move %s: no word", A)
    logger.info("task %s is queued: %s", A, "waits")
    assert texts(kept, A) == [f"move {A}: no word", f"task {A} is queued: waits"]


def test_a_thread_logs_for_the_move_that_it_inherits(log: tuple[logging.Logger, MoveLog]) -> None:
    logger, kept = log
    with of_move(A):
        thread = threading.Thread(target=inherited(logger.info), args=("stream 1 is open",))
    thread.start()
    thread.join()
    assert texts(kept, A) == ["stream 1 is open"]


def test_what_is_kept_is_bounded(log: tuple[logging.Logger, MoveLog], monkeypatch: pytest.MonkeyPatch) -> None:
    logger, kept = log
    monkeypatch.setattr(move_log, "MOVES", 2)
    for number in range(move_log.LINES + 5):
        logger.info("move %s: %d", A, number)
    assert len(kept.of(A)) == move_log.LINES
    assert texts(kept, A)[-1] == f"move {A}: {move_log.LINES + 4}"
    for name in ("c" * 16, "d" * 16):
        logger.info("move %s", name)
    assert kept.of(A) == []


def test_a_fault_is_kept_with_its_reason(log: tuple[logging.Logger, MoveLog]) -> None:
    logger, kept = log
    try:
        raise ZeroDivisionError("planted")
    except ZeroDivisionError:
        logger.exception("move %s failed", A)
    assert texts(kept, A) == [f"move {A} failed: ZeroDivisionError('planted')"]
