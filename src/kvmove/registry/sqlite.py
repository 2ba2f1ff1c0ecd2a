"""The embedded engine: one SQLite file of the manager. All SQL of the registry is here.

Invariant: a change is on stable storage before it is answered. Journal mode WAL with `synchronous=FULL` syncs the log
at each commit; the default rollback journal with FULL does not sync the folder after the journal's removal, so a power
loss could take back a commit that was answered (https://www.sqlite.org/pragma.html#pragma_synchronous).

One thread owns a connection; calls queue up to it. The rules of change are in `ownership` and `slots`, not here. A
released VM's epoch is kept for good, so that a request from its former life finds no record it could match.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

from pydantic import ValidationError

from kvmove.errors import Unreachable
from kvmove.model.ownership import Ownership
from kvmove.registry import ownership
from kvmove.registry.interface import Change, FullList
from kvmove.registry.slots import Held, Outcome, Want, fits, units_of

T = TypeVar("T")
Records = list[Ownership]

SCHEMA_VERSION = 2
_OLDER_VERSIONS = (1,)  # has neither changes nor slots
KEPT_CHANGES = 1000
"""A watcher that is further behind gets all records instead."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS ownership (
    vm TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    epoch INTEGER NOT NULL CHECK (epoch > 0),
    state TEXT NOT NULL,
    move_id TEXT,
    destination TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS released (
    vm TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS change (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    vm TEXT NOT NULL,
    record TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS lease (
    id TEXT PRIMARY KEY,
    seconds REAL NOT NULL,
    expires REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS slot (
    holder TEXT PRIMARY KEY,
    lease TEXT NOT NULL,
    units TEXT NOT NULL
) STRICT;
"""
_COLUMNS = "vm, owner, epoch, state, move_id, destination"
_BUSY_SECONDS = 5.0


class _Database:
    """The file `path` with its tables, and the one thread that speaks to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="registry")
        try:
            self.connection = self._thread.submit(self._open).result()
        except BaseException:
            self._thread.shutdown()
            raise

    async def close(self) -> None:
        try:
            self._thread.submit(self.connection.close)
        except RuntimeError:
            return  # closed already
        await asyncio.to_thread(self._thread.shutdown)

    async def run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)
        except RuntimeError as error:
            raise Unreachable(f"the registry {self._path} is closed") from error

    @contextmanager
    def change(self) -> Iterator[None]:
        """One transaction that holds the write lock from its first read on."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (sqlite3.Error, ValidationError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> Unreachable:
        return Unreachable(
            f"the registry's database {self._path} failed: {error}",
            hint="look at the manager's disk (space, errors); whether the last change took effect must be read",
        )

    def _open(self) -> sqlite3.Connection:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.close(descriptor)
            connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise self._failed(error) from error
        try:
            self._prepare(connection)
            _sync_folder(self._path.parent)
        except (OSError, sqlite3.Error) as error:
            connection.close()
            raise self._failed(error) from error
        except Unreachable:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, *_OLDER_VERSIONS, SCHEMA_VERSION):
            raise Unreachable(
                f"the registry's database {self._path} has version {version}; this program knows {SCHEMA_VERSION}",
                hint="run the version of kvmove that wrote it",
            )
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")


class SqliteRegistry:
    """The registry in the file `path`, which is made (0600) when it is missing.

    A call that is cancelled may have taken effect, as may one that raised Unreachable.

    :raise Unreachable: the file cannot be opened, is no database, or was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._database = _Database(path)
        self._changed = asyncio.Event()

    async def get(self, vm: UUID) -> Ownership | None:
        return await self._database.run(lambda: self._load(vm))

    async def list(self) -> list[Ownership]:
        return await self._database.run(self._load_all)

    async def claim(self, vm: UUID, host: str) -> Ownership:
        return await self._run_change(lambda: self._claim(vm, host))

    async def swap(self, expected: Ownership, new: Ownership) -> Ownership:
        return await self._run_change(lambda: self._swap(expected, new))

    async def release(self, expected: Ownership) -> None:
        await self._run_change(lambda: self._release(expected))

    async def released(self) -> dict[UUID, int]:
        """The last epoch of each VM that was ever released, whether it was registered again or not."""
        return await self._database.run(self._released)

    async def watch(self, after: int | None = None) -> AsyncGenerator[FullList | Change, None]:
        """See `interface.Watchable`. Only what this process changes wakes it: nobody else opens the file."""
        while True:
            changed = self._changed
            news = await self._database.run(partial(self._news, after))
            for it in news:
                yield it
                after = it.revision
            if not news:
                await changed.wait()

    async def close(self) -> None:
        await self._database.close()
        self._wake()

    async def _run_change(self, work: Callable[[], T]) -> T:
        try:
            return await self._database.run(work)
        finally:
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _news(self, after: int | None) -> Sequence[FullList | Change]:
        execute = self._database.connection.execute
        with self._database.change():
            row = execute("SELECT seq FROM sqlite_sequence WHERE name = 'change'").fetchone()
            last = 0 if row is None else row[0]
            if after is None or not last - KEPT_CHANGES <= after <= last:
                return [FullList(self._load_all(), last)]
            rows = execute("SELECT vm, record, revision FROM change WHERE revision > ? ORDER BY revision", (after,))
            return [
                Change(UUID(vm), None if record is None else Ownership.model_validate_json(record), revision)
                for vm, record, revision in rows
            ]

    def _note(self, vm: UUID, record: Ownership | None) -> None:
        text = None if record is None else record.model_dump_json()
        cursor = self._database.connection.execute("INSERT INTO change (vm, record) VALUES (?, ?)", (str(vm), text))
        oldest = (cursor.lastrowid or 0) - KEPT_CHANGES
        self._database.connection.execute("DELETE FROM change WHERE revision <= ?", (oldest,))

    def _released(self) -> dict[UUID, int]:
        rows = self._database.connection.execute("SELECT vm, epoch FROM released ORDER BY vm")
        return {UUID(vm): epoch for vm, epoch in rows}

    def _load(self, vm: UUID) -> Ownership | None:
        query = f"SELECT {_COLUMNS} FROM ownership WHERE vm = ?"
        row = self._database.connection.execute(query, (str(vm),)).fetchone()
        return None if row is None else _record(row)

    def _load_all(self) -> Records:
        query = f"SELECT {_COLUMNS} FROM ownership ORDER BY vm"
        return [_record(row) for row in self._database.connection.execute(query)]

    def _claim(self, vm: UUID, host: str) -> Ownership:
        with self._database.change():
            query = "SELECT epoch FROM released WHERE vm = ?"
            row = self._database.connection.execute(query, (str(vm),)).fetchone()
            return self._store(ownership.claim(self._load(vm), vm, host, last_epoch=0 if row is None else row[0]))

    def _swap(self, expected: Ownership, new: Ownership) -> Ownership:
        with self._database.change():
            return self._store(ownership.compare_and_swap(self._load(expected.vm), expected, new))

    def _release(self, expected: Ownership) -> None:
        with self._database.change():
            ownership.check_release(self._load(expected.vm), expected)
            vm = str(expected.vm)
            self._database.connection.execute("INSERT OR REPLACE INTO released VALUES (?, ?)", (vm, expected.epoch))
            self._database.connection.execute("DELETE FROM ownership WHERE vm = ?", (vm,))
            self._note(expected.vm, None)

    def _store(self, record: Ownership) -> Ownership:
        if self._load(record.vm) == record:
            return record
        self._note(record.vm, record)
        self._database.connection.execute(
            f"INSERT OR REPLACE INTO ownership ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
            (str(record.vm), record.owner, record.epoch, record.state, record.move_id, record.destination),
        )
        return record


class SqliteSlots:
    """The admission slots in the same file. Leases end by this machine's wall clock, which outlives a restart.

    :param clock: seconds since 1970.
    :raise Unreachable: as `SqliteRegistry`.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = _Database(path)
        self._clock = clock

    async def new_lease(self, seconds: float) -> str:
        lease = uuid4().hex
        await self._run(lambda: self._execute("INSERT INTO lease VALUES (?, ?, ?)", lease, seconds, self._end(seconds)))
        return lease

    async def renew(self, lease: str) -> bool:
        return await self._run(lambda: self._renew(lease))

    async def put(self, lease: str, holder: str, wants: Mapping[str, Want], *, anyway: bool) -> Outcome:
        return await self._run(lambda: self._put(lease, holder, wants, anyway=anyway))

    async def drop(self, holder: str) -> None:
        await self._run(lambda: self._execute("DELETE FROM slot WHERE holder = ?", holder))

    async def held(self) -> list[Held]:
        return await self._run(self._held)

    async def close(self) -> None:
        await self._database.close()

    async def _run(self, work: Callable[[], T]) -> T:
        """As one transaction, in which no lease has ended that is still there."""

        def in_transaction() -> T:
            with self._database.change():
                self._execute("DELETE FROM lease WHERE expires <= ?", self._clock())
                self._execute("DELETE FROM slot WHERE lease NOT IN (SELECT id FROM lease)")
                return work()

        return await self._database.run(in_transaction)

    def _renew(self, lease: str) -> bool:
        row = self._execute("SELECT seconds FROM lease WHERE id = ?", lease).fetchone()
        if row is None:
            return False
        self._execute("UPDATE lease SET expires = ? WHERE id = ?", self._end(row[0]), lease)
        return True

    def _put(self, lease: str, holder: str, wants: Mapping[str, Want], *, anyway: bool) -> Outcome:
        if self._execute("SELECT id FROM lease WHERE id = ?", lease).fetchone() is None:
            return Outcome.LEASE_LOST
        if not anyway and not fits(self._held(), holder, wants):
            return Outcome.FULL
        self._execute("INSERT OR REPLACE INTO slot VALUES (?, ?, ?)", holder, lease, json.dumps(units_of(wants)))
        return Outcome.TAKEN

    def _held(self) -> list[Held]:
        rows = self._execute("SELECT holder, lease, units FROM slot ORDER BY holder")
        return [Held(holder, lease, json.loads(units)) for holder, lease, units in rows]

    def _end(self, seconds: float) -> float:
        return self._clock() + seconds

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        return self._database.connection.execute(statement, values)


def _record(row: tuple[object, ...]) -> Ownership:
    return Ownership.model_validate(dict(zip(_COLUMNS.split(", "), row, strict=True)))


def _sync_folder(folder: Path) -> None:
    """Make the file's name durable, not only its content."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
