"""Keeps what a daemon logs of each move, so that it can be asked for by the move's id.

A line belongs to the move that the code which logs it works for (`log_context`), else to the one that it names as
`move ID` or `task ID`.

Invariant: the memory it takes is bounded: `LINES` a move, the newest kept, of the `MOVES` moves last heard of. It keeps
nothing over a restart; all lines go to the daemon's own log as well.
"""

import logging
import re
import threading
from collections import OrderedDict, deque
from datetime import UTC, datetime

from kvmove.log_context import current_move
from kvmove.model.log import LogLine

LINES = 400
MOVES = 200
_LONGEST = 2000
_NAMED = re.compile(r"\b(?:move|task) ([0-9a-f]{16})\b")


class MoveLog(logging.Handler):
    """The handler; `place` is the name of this daemon in each line."""

    def __init__(self, place: str) -> None:
        super().__init__(logging.INFO)
        self._place = place
        self._moves: OrderedDict[str, deque[LogLine]] = OrderedDict()
        self._guard = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        named = _NAMED.search(text)
        move_id = current_move.get() or (named and named[1])
        if not move_id:
            return
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}: {record.exc_info[1]!r}"
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = LogLine(time=time, place=self._place, level=record.levelname, text=text[:_LONGEST])
        with self._guard:
            self._moves.setdefault(move_id, deque(maxlen=LINES)).append(line)
            self._moves.move_to_end(move_id)
            while len(self._moves) > MOVES:
                self._moves.popitem(last=False)

    def of(self, move_id: str) -> list[LogLine]:
        """The lines of that move, oldest first; none for one that nothing was heard of."""
        with self._guard:
            return list(self._moves.get(move_id, ()))
