"""How both daemons write their log: lines for a person on a terminal, one JSON object a line for everything else.

Invariant: every line goes through one handler of the root logger, that of a library too, and says which move it is
about if it is about one (`log_context`). A line is one line, whatever is in it. Nothing here knows a secret, and what
knows one (tickets, keys, tokens) does not log it; the tests look for them in whole logs.

Standard library only: structlog would need the same formatter for libraries' lines, and a bridge to it.
"""

import json
import logging
import sys
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TextIO

from kvmove.log_context import current_move, move_fields

KEPT_LINES = 2000

LoggedFields = dict[str, str]
"""`time` (RFC 3339), `level`, `logger`, `event`; of a move also `task_id`, `vm`, `src`, `dst`, `phase`."""

_FIELDS = ("task_id", "vm", "src", "dst", "phase")
_PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class MoveFields(logging.Filter):
    """Puts the move of the context that logs on the record; lets every record through."""

    def filter(self, record: logging.LogRecord) -> bool:
        fields = {"task_id": current_move.get(), **move_fields()}
        for name in _FIELDS:
            if fields.get(name) and not hasattr(record, name):
                setattr(record, name, fields[name])
        return True


class JsonLines(logging.Formatter):
    """`{"time", "level", "logger", "event", …}`; with `error`, a stack trace, where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record), ensure_ascii=False)

    def fields(self, record: logging.LogRecord) -> LoggedFields:
        """The line before it is text."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said = {"time": when, "level": record.levelname.lower(), "logger": record.name, "event": record.getMessage()}
        said |= _move_of(record)
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return said


class PlainLines(logging.Formatter):
    """`2026-11-23 10:00:00,000 INFO kvmove.agent.moves: text  [task_id=… vm=…]`, for a person."""

    def __init__(self) -> None:
        super().__init__(_PLAIN)

    def format(self, record: logging.LogRecord) -> str:
        text, newline, trace = super().format(record).partition("\n")
        about = " ".join(f"{name}={value}" for name, value in _move_of(record).items())
        return f"{text}  [{about}]{newline}{trace}" if about else text + newline + trace


class RecentLines(logging.Handler):
    """The last lines, in memory, for `kvmove support-bundle`."""

    def __init__(self, keep: int = KEPT_LINES) -> None:
        super().__init__()
        self._lines: deque[LoggedFields] = deque(maxlen=keep)
        self._form = JsonLines()
        self.addFilter(MoveFields())

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self._form.fields(record))

    @property
    def lines(self) -> Sequence[LoggedFields]:
        """Oldest first."""
        return tuple(self._lines)


def set_up_logging(stream: TextIO = sys.stderr, recent: RecentLines | None = None) -> None:
    """Send the whole process's log to `stream`, from INFO up, and to `recent`. What was set up before is replaced."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainLines() if stream.isatty() else JsonLines())
    handler.addFilter(MoveFields())
    logging.basicConfig(level=logging.INFO, handlers=[handler, *([recent] if recent else [])], force=True)
    logging.captureWarnings(True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _move_of(record: logging.LogRecord) -> dict[str, str]:
    return {name: str(value) for name in _FIELDS if (value := getattr(record, name, ""))}
