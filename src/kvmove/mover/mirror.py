"""One disk's mirror at the source: what QEMU sends to its NBD server, and the answers it gets.

Deliberately not here: when a write is answered (dispatcher, by way of the move), and the protocol (nbd).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class MirrorServer(Protocol):
    """What is needed of the NBD server that QEMU's mirror writes to."""

    def reply(self, cookie: int) -> bool: ...

    def reply_many(self, cookies: list[int]) -> int: ...

    def oldest_arrival(self) -> float | None: ...

    def abort(self, reason: str) -> None: ...

    def close(self) -> None: ...


class MirrorSink(Protocol):
    """What the mirrors of a move tell it, in the NBD servers' threads."""

    def mirrored(self, disk: int, extent: tuple[int, int], payload: bytes | None, cookie: int) -> None: ...

    def discarded(self, disk: int, extent: tuple[int, int]) -> None: ...

    def mirror_ended(self, disk: int, reason: str) -> None: ...


@dataclass(slots=True)
class Mirror:
    """One disk's mirror; takes QEMU's requests in the NBD server's thread."""

    sink: MirrorSink
    disk: int
    server: MirrorServer | None = None

    def on_write(self, cookie: int, offset: int, payload: bytes) -> None:
        self.sink.mirrored(self.disk, (offset, len(payload)), payload, cookie)

    def on_zero(self, cookie: int, offset: int, length: int, may_punch: bool) -> None:
        del may_punch  # QEMU 7.2 loses it on the way; the destination keeps zeroes as holes in any case
        self.sink.mirrored(self.disk, (offset, length), None, cookie)

    def on_trim(self, cookie: int, offset: int, length: int) -> None:
        self.sink.discarded(self.disk, (offset, length))
        self.answer(cookie)

    def on_flush(self, cookie: int) -> None:
        self.answer(cookie)  # the source disk is the truth until the commit; its flush is QEMU's own

    def on_disconnect(self, reason: str) -> None:
        self.sink.mirror_ended(self.disk, reason)

    def answer(self, cookie: int) -> None:
        if self.server is not None:
            self.server.reply(cookie)
