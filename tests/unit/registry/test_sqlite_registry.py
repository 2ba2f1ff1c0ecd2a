"""What is special about the SQLite engine: its file, its durability, its failures."""

import asyncio
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from kvmove.errors import Unreachable
from kvmove.registry import ownership
from kvmove.registry.sqlite import SqliteRegistry

VM = UUID(int=1)


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[SqliteRegistry]:
    opened = SqliteRegistry(tmp_path / "registry.db")
    yield opened
    await opened.close()


def files_of(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_the_files_are_for_their_owner_alone(registry: SqliteRegistry, tmp_path: Path) -> None:
    await registry.claim(VM, "h1")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in files_of(tmp_path)}
    assert modes["registry.db-wal"] == 0o600
    assert set(modes.values()) == {0o600}


async def test_records_outlive_a_restart(tmp_path: Path) -> None:
    first = SqliteRegistry(tmp_path / "registry.db")
    owned = await first.claim(VM, "h1")
    moving = await first.swap(owned, ownership.begin(owned, "m1", "h2"))
    await first.close()
    second = SqliteRegistry(tmp_path / "registry.db")
    assert await second.get(VM) == moving
    await second.close()


async def test_a_commit_is_synced_and_the_log_is_wal(registry: SqliteRegistry) -> None:
    """FULL with WAL syncs at each commit; NORMAL would sync at checkpoints alone, FULL with DELETE not the folder."""
    database = registry._database
    assert await database.run(lambda: database.connection.execute("PRAGMA synchronous").fetchone()[0]) == 2
    assert await database.run(lambda: database.connection.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"


async def test_two_processes_on_one_file_still_swap_one_after_the_other(tmp_path: Path) -> None:
    ours, theirs = SqliteRegistry(tmp_path / "registry.db"), SqliteRegistry(tmp_path / "registry.db")
    owned = await ours.claim(VM, "h1")
    moving = await theirs.swap(owned, ownership.begin(owned, "m1", "h2"))
    assert await ours.get(VM) == moving
    await ours.close()
    await theirs.close()


async def test_a_change_that_fails_leaves_no_transaction_behind(registry: SqliteRegistry, tmp_path: Path) -> None:
    owned = await registry.claim(VM, "h1")
    with sqlite3.connect(tmp_path / "registry.db") as other:
        other.execute("CREATE TRIGGER refuse BEFORE INSERT ON ownership BEGIN SELECT RAISE(ABORT, 'disk on fire'); END")
    other.close()
    with pytest.raises(Unreachable, match="disk on fire"):
        await registry.swap(owned, ownership.begin(owned, "m1", "h2"))
    assert await registry.get(VM) == owned
    with sqlite3.connect(tmp_path / "registry.db") as other:
        other.execute("DROP TRIGGER refuse")
    other.close()
    assert (await registry.swap(owned, ownership.begin(owned, "m1", "h2"))).destination == "h2"


async def test_a_record_that_cannot_be_read_is_no_answer(registry: SqliteRegistry, tmp_path: Path) -> None:
    await registry.claim(VM, "h1")
    with sqlite3.connect(tmp_path / "registry.db") as other:
        other.execute("UPDATE ownership SET state = 'nonsense'")
    other.close()
    with pytest.raises(Unreachable, match="failed"):
        await registry.get(VM)


def test_a_file_that_is_no_database_or_a_newer_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be looked at as one" * 30)
    with pytest.raises(Unreachable, match="not a database"):
        SqliteRegistry(tmp_path / "text")
    with pytest.raises(Unreachable, match="No such file"):
        SqliteRegistry(tmp_path / "missing" / "registry.db")
    with sqlite3.connect(tmp_path / "newer") as newer:
        newer.execute("PRAGMA user_version=9")
    newer.close()
    with pytest.raises(Unreachable, match="version 9"):
        SqliteRegistry(tmp_path / "newer")


_CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from uuid import UUID
from kvmove.registry.sqlite import SqliteRegistry

async def main() -> None:
    registry = SqliteRegistry(Path(sys.argv[1]))
    for number in range(1000):
        await registry.claim(UUID(int=number), "h1")
        os.write(1, f"{number}\\n".encode())

asyncio.run(main())
"""


async def numbers_in(path: Path) -> set[int]:
    registry = SqliteRegistry(path)
    try:
        return {record.vm.int for record in await registry.list()}
    finally:
        await registry.close()


def test_what_was_answered_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    """A kill is no power loss; the sync settings above are for that. But the log must be found and replayed."""
    path = tmp_path / "registry.db"
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child, child.stdout:
        answered = [int(child.stdout.readline()) for _ in range(20)]
        child.kill()
        answered += [int(line) for line in child.stdout.read().splitlines()]
    kept = asyncio.run(numbers_in(path))
    assert set(answered) <= kept
    assert len(kept) <= len(answered) + 1
