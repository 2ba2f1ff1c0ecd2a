"""A copy of one disk between two hosts of a bare lab, without QEMU: `python -m tests.support.far_copy receive|send`.

Each end is a process in its host's network. The sender plays a guest that writes a little all the time, and prints as
JSON how long the copy took and how long each of the guest's writes was held.
"""

from __future__ import annotations

import json
import os
import random
import ssl
import sys
import threading
import time
from pathlib import Path

from kvmove.disk.raw_file import RawFile
from kvmove.disk.raw_target import RawTarget
from kvmove.model.move import Route
from kvmove.mover.disk_move import DiskMove
from kvmove.mover.move_terms import MoverSettings, MovingDisk
from kvmove.mover.receiver import DiskReceiver
from kvmove.transport.dial import Dialer
from kvmove.transport.listener import DataListener, Expected
from kvmove.wire.handshake import StreamRole
from tests.support.writing_guest import FakeMirror

PORT = 17450
MOVE = "far"
TICKET = b"one move's secret"
BLOCK = 4096
WRITES_PER_SECOND = 200
WITHIN = 25.0


class TimedMirror(FakeMirror):
    """Notes how long each write was held; its cookie is its number."""

    def __init__(self) -> None:
        super().__init__()
        self.began: dict[int, float] = {}
        self.held: list[float] = []

    def reply(self, cookie: int) -> bool:
        self.held.append(time.monotonic() - self.began.pop(cookie))
        return super().reply(cookie)

    def reply_many(self, cookies: list[int]) -> int:
        return sum(self.reply(cookie) for cookie in cookies)


def receive(address: str, path: Path, size: int) -> None:
    """Take the copy, until killed."""
    receiver = DiskReceiver([RawTarget.create(path, size)])
    listener = DataListener([address], PORT, lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    accept = Expected(TICKET, "h1", False, lambda hello, stream: receiver.accept(hello.number, stream))
    listener.expect(MOVE, accept)
    listener.start()
    _say("listening")
    threading.Event().wait()


def send(source: str, destination: str, path: Path) -> None:
    """Copy, and print what it took."""
    dialer = Dialer(MOVE, TICKET, None, "h2")
    route = Route(nic="mig0", source_address=source, destination_address=destination, port=PORT)
    disks = [MovingDisk(RawFile(path))]
    move = DiskMove(disks, [route], lambda route, number: dialer.open(route, StreamRole.DISK, number), MoverSettings())
    mirror = TimedMirror()
    move.mirror(0).server = mirror
    ended = threading.Event()
    guest = threading.Thread(target=_write, args=(path, move, mirror, ended))
    try:
        move.start(10.0)
        guest.start()
        began = time.monotonic()
        move.start_copy()
        copied = move.wait_copied(WITHIN)
        took = time.monotonic() - began
        ended.set()
        guest.join()
        settled = move.wait_settled(WITHIN)
        [disk], _ = move.snapshot()
    finally:
        ended.set()
        move.stop()
    _say(json.dumps({"seconds": took, "settled": copied and settled, "mode": disk.mode, "held": mirror.held}))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _write(path: Path, move: DiskMove, mirror: TimedMirror, ended: threading.Event) -> None:
    """A guest's writes: on the source disk first, then to the mirror."""
    chosen = random.Random(7)
    blocks = path.stat().st_size // BLOCK
    with path.open("r+b", buffering=0) as disk:
        number = 0
        while not ended.wait(1 / WRITES_PER_SECOND):
            number += 1
            offset, payload = chosen.randrange(blocks) * BLOCK, chosen.randbytes(BLOCK)
            os.pwrite(disk.fileno(), payload, offset)
            mirror.began[number] = time.monotonic()
            move.mirror(0).on_write(number, offset, payload)


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        send(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
