"""Tasks on disk, so that they survive a restart of the manager.

Invariant: `save` and `delete` return when it is on disk. Blocking, and for one thread at a time; `task_book` keeps it
away from the event loop and decides which tasks are kept. The column `started` holds when a task was accepted.
"""

import logging
import sqlite3
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from kvmove.model.log import LogLine
from kvmove.model.task import Task

_LOG = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS task (
    id TEXT PRIMARY KEY,
    started TEXT NOT NULL,
    state TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT
"""
_LOG_SCHEMA = "CREATE TABLE IF NOT EXISTS task_log (id TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT"
_LINES = TypeAdapter(list[LogLine])
_SAVE = """
INSERT INTO task (id, started, state, body) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET state = excluded.state, body = excluded.body
"""


class TaskStore:
    """The file of tasks at `path`, made when it is not there."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(_SCHEMA)
        self._db.execute(_LOG_SCHEMA)

    def load(self) -> list[Task]:
        """All tasks, oldest first. One that this version cannot read is left on disk and told in the log."""
        rows = self._db.execute("SELECT id, body FROM task ORDER BY started, id").fetchall()
        return [task for row in rows if (task := _read(*row)) is not None]

    def save(self, task: Task) -> None:
        """Put the task on disk, in place of its earlier state."""
        self._db.execute(_SAVE, (task.id, task.created, task.state, task.model_dump_json()))

    def delete(self, task_id: str) -> None:
        """Forget a task and its log."""
        self._db.execute("DELETE FROM task WHERE id = ?", (task_id,))
        self._db.execute("DELETE FROM task_log WHERE id = ?", (task_id,))

    def save_log(self, task_id: str, lines: list[LogLine]) -> None:
        """Put the log of a task on disk, in place of what is there."""
        body = _LINES.dump_json(lines).decode()
        self._db.execute("INSERT OR REPLACE INTO task_log (id, body) VALUES (?, ?)", (task_id, body))

    def log(self, task_id: str) -> list[LogLine] | None:
        """The log of a task; None when there is none, or none that this version can read."""
        row = self._db.execute("SELECT body FROM task_log WHERE id = ?", (task_id,)).fetchone()
        try:
            return None if row is None else _LINES.validate_json(row[0])
        except ValidationError as error:
            _LOG.warning("the log of task %s on disk cannot be read: %s", task_id, error)
            return None

    def close(self) -> None:
        self._db.close()


def _read(task_id: str, body: str) -> Task | None:
    try:
        return Task.model_validate_json(body)
    except ValidationError as error:
        _LOG.warning("task %s on disk cannot be read: %s", task_id, error)
        return None
