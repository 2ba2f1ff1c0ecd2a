"""The book of tasks: what watchers see, and what a restart leaves."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kvmove.errors import InvalidInput, NotFound
from kvmove.manager.task_book import TaskBook
from kvmove.manager.task_store import TaskStore
from kvmove.model.move import Phase
from kvmove.model.task import Task, TaskState
from tests.support import samples

FIRST = samples.task()


@asynccontextmanager
async def opened(path: Path, keep: int = 1000) -> AsyncIterator[TaskBook]:
    book = await TaskBook(TaskStore(path), keep).open()
    try:
        yield book
    finally:
        await book.close()


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[TaskBook]:
    async with opened(tmp_path / "tasks.db") as book:
        await book.add(FIRST)
        yield book


async def collect(book: TaskBook, after: int = -1) -> list[Task]:
    return [task async for task in book.watch(FIRST.id, after)]


async def end(book: TaskBook) -> Task:
    return await book.change(FIRST.id, state=TaskState.SUCCEEDED)


async def test_a_watcher_sees_the_task_as_it_is_then_each_change_then_the_end(book: TaskBook) -> None:
    watching = asyncio.create_task(collect(book))
    for percent in (50.0, 60.0):
        await asyncio.sleep(0.01)
        await book.change(FIRST.id, progress=samples.progress(percent=percent))
    await asyncio.sleep(0.01)
    await end(book)
    seen = await watching
    assert [task.progress.percent for task in seen if task.progress] == [42.0, 50.0, 60.0, 60.0]
    assert [task.revision for task in seen] == [0, 1, 2, 3]
    assert seen[-1].state is TaskState.SUCCEEDED


async def test_a_slow_watcher_misses_states_in_between_but_never_the_end(book: TaskBook) -> None:
    seen = []
    async for task in book.watch(FIRST.id):
        seen.append(task.revision)
        if not task.ended_state:
            await book.change(FIRST.id, progress=samples.progress(percent=50.0))
            await book.change(FIRST.id, progress=samples.progress(percent=60.0))
            await end(book)
    assert seen == [0, 3]


async def test_who_comes_back_is_not_told_again_what_it_knows(book: TaskBook) -> None:
    await book.change(FIRST.id, progress=samples.progress(percent=50.0))
    await end(book)
    assert [task.revision for task in await collect(book, after=1)] == [2]
    assert await collect(book, after=2) == []


async def test_a_revision_of_the_future_is_answered_with_the_present(book: TaskBook) -> None:
    await end(book)
    assert [task.revision for task in await collect(book, after=999)] == [1]


async def test_an_ended_task_does_not_change(book: TaskBook) -> None:
    ended = await end(book)
    assert await book.change(FIRST.id, state=TaskState.FAILED) == ended


async def test_a_change_that_changes_nothing_is_no_revision(book: TaskBook) -> None:
    assert await book.change(FIRST.id, progress=samples.progress()) == FIRST


async def test_closing_ends_the_watchers(tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks.db") as book:
        await book.add(FIRST)
        watching = asyncio.create_task(collect(book))
        await asyncio.sleep(0.01)
    assert [task.revision for task in await watching] == [0]


async def test_a_task_is_found_by_the_beginning_of_its_id(book: TaskBook) -> None:
    assert book.get(FIRST.id[:3]) == FIRST
    await book.add(FIRST.model_copy(update={"id": FIRST.id[:5] + "x"}))
    with pytest.raises(InvalidInput, match="2 tasks begin"):
        book.get(FIRST.id[:3])
    with pytest.raises(NotFound):
        book.get("")


async def test_tasks_are_there_again_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks.db") as book:
        await book.add(FIRST)
        await book.add(FIRST.model_copy(update={"id": "other", "created": "2026-11-23T09:00:00.000+00:00"}))
        ended = await end(book)
    async with opened(tmp_path / "tasks.db") as book:
        assert [task.id for task in book.all()] == ["other", FIRST.id]
        assert [task.id for task in book.unended()] == ["other"]
        assert book.get(FIRST.id) == ended


async def test_a_revision_never_falls_over_a_restart_that_lost_changes(tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks.db") as book:
        await book.add(FIRST)
        for step in range(250):
            task = await book.change(FIRST.id, progress=samples.progress(percent=step / 10))
    async with opened(tmp_path / "tasks.db") as book:
        assert book.get(FIRST.id).revision > task.revision


async def test_a_change_of_phase_is_on_disk_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks.db") as book:
        await book.add(FIRST)
        await book.change(FIRST.id, progress=samples.progress(Phase.SWITCHING_OVER, 99.0))
        on_disk = TaskStore(tmp_path / "tasks.db")
        assert [task.progress.phase for task in on_disk.load() if task.progress] == [Phase.SWITCHING_OVER]
        on_disk.close()


async def test_what_cannot_be_written_has_not_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TaskStore(tmp_path / "tasks.db")
    book = await TaskBook(store).open()
    await book.add(FIRST)

    def full(_task: Task) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(store, "save", full)
    with pytest.raises(OSError, match="no space"):
        await book.change(FIRST.id, state=TaskState.SUCCEEDED)
    assert book.get(FIRST.id).state is FIRST.state and book.running()
    with pytest.raises(OSError, match="no space"):
        await book.add(FIRST.model_copy(update={"id": "b" * 16}))
    assert len(book.all()) == 1
    monkeypatch.undo()
    assert (await book.change(FIRST.id, state=TaskState.SUCCEEDED)).ended_state and not book.running()
    await book.close()


async def test_old_ended_tasks_go_and_running_ones_stay(tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks.db", keep=2) as book:
        await book.add(FIRST)
        for hour in range(10, 15):
            task = await book.add(samples.task(id=f"t{hour}", created=f"2026-11-23T{hour}:00:00.000+00:00"))
            await book.change(task.id, state=TaskState.SUCCEEDED)
        assert [task.id for task in book.all()] == ["t14", "t13", FIRST.id]
    async with opened(tmp_path / "tasks.db") as book:
        assert [task.id for task in book.all()] == ["t14", "t13", FIRST.id]


async def test_a_task_that_this_version_cannot_read_does_not_stop_the_manager(tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks.db") as book:
        await book.add(FIRST)
    with sqlite3.connect(tmp_path / "tasks.db") as database:
        database.execute("UPDATE task SET body = '{}'")
    database.close()
    async with opened(tmp_path / "tasks.db") as book:
        assert book.all() == []


async def test_one_that_ran_long_and_ended_last_is_not_forgotten_before_older_ends(tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks.db", keep=1) as book:
        for number in range(3):
            await book.add(FIRST.model_copy(update={"id": f"task{number}", "created": f"2026-11-23T0{number}:00:00Z"}))
        for number, hour in ((1, 10), (2, 11), (0, 12)):
            await book.change(f"task{number}", state=TaskState.SUCCEEDED, ended=f"2026-11-23T{hour}:00:00Z")
        assert [task.id for task in book.all()] == ["task0"]


async def test_what_has_not_ended_is_known_apart_also_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks.db") as book:
        for name, state in (("a", TaskState.QUEUED), ("b", TaskState.RUNNING), ("c", TaskState.RUNNING)):
            await book.add(FIRST.model_copy(update={"id": name, "state": state}))
        await book.change("b", state=TaskState.SUCCEEDED)
        await book.change("a", state=TaskState.RUNNING)
        assert [task.id for task in book.running()] == ["c", "a"]
    async with opened(tmp_path / "tasks.db") as book:
        assert [task.id for task in book.unended()] == ["c", "a"]
        assert book.queued() == []
