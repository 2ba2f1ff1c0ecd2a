"""A mirror target that keeps the writes in memory, answers at once, or not at all while `stalled`."""

from pathlib import Path
from types import TracebackType
from typing import Self

from kvmove.nbd.server import NbdServer


class MirrorTarget:
    """Use as a context manager. `writes` are (offset, payload) in the order of their arrival."""

    def __init__(self, path: Path, size: int, export: str = "d0") -> None:
        self.path, self.size, self.export = path, size, export
        self.writes: list[tuple[int, bytes]] = []
        self.stalled = False
        self.ended: str | None = None
        self._held: list[int] = []
        self._server = NbdServer(path, export, size, self)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._server.close()

    def hang_up(self) -> None:
        self._server.abort("the test hung up")

    def held(self) -> int:
        """How many requests wait for an answer that does not come."""
        return len(self._held)

    def apply_to(self, image: bytearray) -> None:
        """Do the writes, in order."""
        for offset, payload in self.writes:
            image[offset : offset + len(payload)] = payload

    def on_write(self, cookie: int, offset: int, payload: bytes) -> None:
        self.writes.append((offset, bytes(payload)))
        self._answer(cookie)

    def on_zero(self, cookie: int, offset: int, length: int, may_punch: bool) -> None:
        self.writes.append((offset, bytes(length)))
        self._answer(cookie)

    def on_trim(self, cookie: int, offset: int, length: int) -> None:
        self._answer(cookie)

    def on_flush(self, cookie: int) -> None:
        self._answer(cookie)

    def on_disconnect(self, reason: str) -> None:
        self.ended = reason

    def _answer(self, cookie: int) -> None:
        if self.stalled:
            self._held.append(cookie)
        else:
            self._server.reply(cookie)
