"""Opens a connection over whichever route answers, in a thread of its own: a channel is never held by a dial."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from kvmove.log_context import inherited
from kvmove.model.move import Route
from kvmove.transport.stream import Stream, StreamLost, StreamRefused

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.3
"""Between two rounds over all routes."""

Opened = tuple[Route, Stream]


class Redial:
    """Tries `candidates()` in order, round after round, until one answers, one refuses, or `abandon`."""

    def __init__(self, candidates: Callable[[], Sequence[Route]], dial: Callable[[Route], Stream]) -> None:
        self.failure = ""
        """What the last attempt came to."""
        self._candidates = candidates
        self._dial = dial
        self._answer: queue.SimpleQueue[Opened | StreamLost] = queue.SimpleQueue()
        self._abandoned = threading.Event()
        self._lock = threading.Lock()
        threading.Thread(target=inherited(self._run), name="memory-redial", daemon=True).start()

    def result(self, seconds: float) -> Opened | None:
        """The connection, once there is one within so long. To be asked no more after that.

        :raise StreamRefused: the destination answered, and does not take it. :raise StreamLost: the dial failed as
            nobody foresaw; there will be no more.
        """
        try:
            answer = self._answer.get(timeout=seconds) if seconds else self._answer.get_nowait()
        except queue.Empty:
            return None
        if isinstance(answer, StreamLost):
            raise answer
        return answer

    def abandon(self) -> None:
        """Nobody waits any more; what is opened still is closed at once."""
        with self._lock:
            self._abandoned.set()
            while not self._answer.empty():
                answer = self._answer.get_nowait()
                if not isinstance(answer, StreamLost):
                    answer[1].close()

    def _run(self) -> None:
        try:
            self._dial_in_rounds()
        except Exception as error:  # else the channel would wait for a connection as long as it may
            log.exception("dialling failed")
            self._give(StreamLost(f"dialling failed by a defect of ours: {error!r}"))

    def _dial_in_rounds(self) -> None:
        while not self._abandoned.is_set():
            for route in self._candidates():
                if self._abandoned.is_set() or self._try(route):
                    return
            self._abandoned.wait(PAUSE_SECONDS)

    def _try(self, route: Route) -> bool:
        """Whether it is settled."""
        try:
            self._give((route, self._dial(route)))
        except StreamRefused as error:
            self._give(error)
        except StreamLost as error:
            self.failure = str(error)
            return False
        return True

    def _give(self, answer: Opened | StreamLost) -> None:
        with self._lock:
            if not self._abandoned.is_set():
                self._answer.put(answer)
            elif not isinstance(answer, StreamLost):
                answer[1].close()
