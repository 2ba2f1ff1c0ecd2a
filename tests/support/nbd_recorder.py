"""A mirror's handler that only remembers what it was told."""

import threading
from collections.abc import Callable


class Recorder:
    """`calls` holds every call in order; `answer`, when set, is called with each cookie; `ended` tells the end."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.answer: Callable[[int], object] | None = None
        self.ended = threading.Event()
        self.reasons: list[str] = []

    def on_write(self, cookie: int, offset: int, payload: bytes) -> None:
        self._note(cookie, ("write", cookie, offset, payload))

    def on_zero(self, cookie: int, offset: int, length: int, may_punch: bool) -> None:
        self._note(cookie, ("zero", cookie, offset, length, may_punch))

    def on_trim(self, cookie: int, offset: int, length: int) -> None:
        self._note(cookie, ("trim", cookie, offset, length))

    def on_flush(self, cookie: int) -> None:
        self._note(cookie, ("flush", cookie))

    def on_disconnect(self, reason: str) -> None:
        self.reasons.append(reason)
        self.ended.set()

    def _note(self, cookie: int, call: tuple[object, ...]) -> None:
        self.calls.append(call)
        if self.answer is not None:
            self.answer(cookie)
