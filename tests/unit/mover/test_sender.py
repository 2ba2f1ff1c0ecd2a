"""What a stream sends when its move's cap leaves no room for bulk data."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from kvmove.disk.extents import Extent
from kvmove.disk.interface import SourceDisk
from kvmove.errors import KvmoveError
from kvmove.model.terms import Compress
from kvmove.mover.compression import Compression
from kvmove.mover.dispatcher import DiskTerms, Dispatcher, Limits
from kvmove.mover.sender import Sender
from kvmove.mover.time_spent import ReadTimes
from kvmove.mover.worker import Worker
from kvmove.transport.bandwidth import Bandwidth
from kvmove.transport.stream import Stream
from kvmove.wire import frames
from kvmove.wire.frames import FrameKind
from tests.support.mover_model import ModelDisk

REGION = 1024


class Move:
    """The engine of one sender."""

    def __init__(self, disk: ModelDisk) -> None:
        self.lock = threading.Lock()
        self.dispatcher = Dispatcher([DiskTerms(disk.size)], REGION, Limits(REGION, 0, 1.0))
        self.disks: Sequence[SourceDisk] = [disk]
        self.stopping = threading.Event()
        self.bandwidth: Bandwidth = OneFrame()
        self.compression = Compression(Compress.OFF)
        self.times = ReadTimes(1)
        self.failures: list[KvmoveError] = []

    def new_number(self) -> int:
        return 1

    def stream_opened(self, worker: Worker) -> None:
        with self.lock:
            self.dispatcher.add_stream(worker.number)

    def stream_closed(self, worker: Worker, reason: str) -> None:
        pass

    def progress_made(self) -> None:
        pass

    def failed(self, error: KvmoveError) -> None:
        self.failures.append(error)


class Solid(ModelDisk):
    """All of it is one extent of data."""

    def extents(self, start: int, end: int) -> Iterator[Extent]:
        yield Extent(start, end - start, True)


class OneFrame(Bandwidth):
    """Room for one item of bulk data, and for every mirrored write."""

    def may_send_bulk(self, *, in_turn: bool = False) -> bool:
        return not self.bulk_bytes


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    with near, far:
        yield near, far


def test_writes_held_for_a_region_that_was_sent_do_not_wait_for_bulks_credit(
    wire: tuple[socket.socket, socket.socket],
) -> None:
    near, far = wire
    disk = Solid(2 * REGION)
    disk.content[:] = b"b" * disk.size
    move = Move(disk)

    def open_stream(slot: int) -> Stream:
        stream = Stream(near)
        stream.number = 1
        return stream

    sender = Sender(move, "mig0", open_stream, 0)
    sender.start()
    far.settimeout(10)
    try:
        while not move.dispatcher.streams:
            time.sleep(0.01)
        with move.lock:
            move.dispatcher.copying = True
        assert read_frame(far) == (FrameKind.DATA, 0, b"b" * REGION)
        with move.lock:
            assert move.dispatcher.mirrored(0, (8, 4), b"wwww", 7, 0.0)
        sender.wake()
        assert read_frame(far) == (FrameKind.DATA, 8, b"wwww")
    finally:
        move.stopping.set()
        sender.wake()
        sender.join()
    assert move.failures == []
    assert move.bandwidth.bulk_bytes < 2 * REGION


def read_frame(sock: socket.socket) -> tuple[FrameKind, int, bytes]:
    frame = frames.decode(receive(sock, frames.HEADER_SIZE), 0)
    return frame.kind, frame.offset, receive(sock, frame.length)


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += sock.recv(size - len(data))
    return data
