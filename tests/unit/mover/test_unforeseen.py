"""An exception that nobody foresaw, in whichever thread of the data mover, is a failure of the move that says what it
was: nobody waits for that thread any more."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kvmove.disk.extents import Extent
from kvmove.errors import KvmoveError, MoveFailed
from kvmove.model.move import Route
from kvmove.mover.background_sync import SYNC_BYTES, BackgroundSync
from kvmove.mover.disk_move import DiskMove
from kvmove.mover.move_terms import MoverSettings, MovingDisk
from kvmove.mover.sender import Sender
from kvmove.transport.stream import Stream
from tests.support.eventually import eventually
from tests.support.mover_model import ModelDisk

SIZE = 4096
ROUTE = Route(nic="mig0", source_address="127.0.0.1", destination_address="127.0.0.1", port=1)


def planted(*_: object, **__: object) -> None:
    raise RuntimeError("planted")


class Unreadable(ModelDisk):
    """Fails as no disk should."""

    def extents(self, start: int, end: int) -> Iterator[Extent]:
        planted()
        yield Extent(start, end - start, True)


@contextmanager
def moving(disk: ModelDisk, dial: Callable[[Route, int], Stream]) -> Iterator[DiskMove]:
    move = DiskMove([MovingDisk(disk)], [ROUTE], dial, MoverSettings())
    try:
        yield move
    finally:
        move.stop()


@pytest.fixture
def near() -> Iterator[socket.socket]:
    """A connection to a peer that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            yield near


def open_over(near: socket.socket) -> Callable[[Route, int], Stream]:
    return lambda route, number: Stream(near, route.nic)


def failure(move: DiskMove) -> KvmoveError:
    assert move.failure is not None
    return move.failure


async def test_in_a_streams_dial() -> None:
    def dial(route: Route, number: int) -> Stream:
        raise RuntimeError("planted")

    with moving(ModelDisk(SIZE), dial) as move, pytest.raises(MoveFailed, match=r"mig0 failed.*planted"):
        move.start(10.0)
        await eventually(lambda: move.failure is not None)
        move.is_copied()


async def test_in_a_streams_thread(near: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sender, "_step", planted)
    with moving(ModelDisk(SIZE), open_over(near)) as move:
        move.start(10.0)
        await eventually(lambda: move.failure is not None)
        assert "planted" in failure(move).detail
        await eventually(lambda: move.alone is not None)  # what it had was given back


async def test_in_a_streams_reader(near: socket.socket) -> None:
    with moving(Unreadable(SIZE), open_over(near)) as move:
        move.start(10.0)
        move.start_copy()
        await eventually(lambda: move.failure is not None)
        assert "reading a disk failed" in failure(move).detail


async def test_in_the_watch(near: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    with moving(ModelDisk(SIZE), open_over(near)) as move:
        monkeypatch.setattr(move.nics, "look", planted)
        move.start(10.0)
        await eventually(lambda: move.failure is not None)
        assert "the watch over the disks failed" in failure(move).detail


class Unsyncable:
    """Fails once, as no storage should."""

    def __init__(self) -> None:
        self.synced = threading.Event()

    def sync(self) -> None:
        if not self.synced.is_set():
            self.synced.set()
            planted()


async def test_in_the_background_sync() -> None:
    failures: list[KvmoveError] = []
    sync = BackgroundSync([Unsyncable()], failures.append)
    sync.start()
    sync.wrote(SYNC_BYTES)
    await eventually(lambda: bool(failures))
    with pytest.raises(MoveFailed, match="planted"):
        sync.sync()
    sync.stop()
