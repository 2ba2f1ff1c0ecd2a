"""A guest and its mirror without QEMU: a thread that writes all the time, for tests of the mover's threads."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path
from typing import Self

from kvmove.mover.disk_move import DiskMove
from kvmove.units import MIB


class FakeMirror:
    """Stands in for the NBD server: counts the answers."""

    def __init__(self) -> None:
        self.answered = 0

    def reply(self, cookie: int) -> bool:
        self.answered += 1
        return True

    def reply_many(self, cookies: list[int]) -> int:
        self.answered += len(cookies)
        return len(cookies)

    def oldest_arrival(self) -> float | None:
        return None

    def abort(self, reason: str) -> None:
        pass

    def close(self) -> None:
        pass


class Guest(threading.Thread):
    """Writes to the source file and then to the mirror, as QEMU does, as long as its context lasts."""

    def __init__(self, path: Path, move: DiskMove) -> None:
        super().__init__()
        self.size = path.stat().st_size
        self.file = os.open(path, os.O_WRONLY)
        self.move = move
        self.random = random.Random(7)
        self.ended = threading.Event()
        self.written = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.ended.set()
        self.join()

    def run(self) -> None:
        while not self.ended.is_set():
            length = self.random.choice([512, 4096, 4096, 4096, 65536, 700_000])
            offset = self.random.randrange(0, self.size - length, 512)
            self.written += 1
            if self.random.random() < 0.1:
                os.pwrite(self.file, bytes(length), offset)
                self.move.mirror(0).on_zero(self.written, offset, length, True)
            else:
                payload = self.random.randbytes(min(length, 4096)) * -(-length // 4096)
                os.pwrite(self.file, payload[:length], offset)
                self.move.mirror(0).on_write(self.written, offset, payload[:length])
            time.sleep(0.0005)
        os.close(self.file)


def make_source(path: Path, size: int) -> None:
    """Data, holes, and stored zeroes."""
    with path.open("wb") as file:
        file.truncate(size)
        for start in range(0, size - 3 * MIB, 6 * MIB):
            file.seek(start)
            file.write(random.Random(start).randbytes(2 * MIB + 12288) + bytes(MIB))
