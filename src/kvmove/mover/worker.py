"""What a move and the threads that work for it need of each other, whatever way the data takes. Interfaces only.

A worker is what the dispatcher calls a stream: it has a number, a queue of its own, and things in flight that are
acknowledged in order. `Sender` puts them on a wire; `LocalCopy` does them itself.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

from kvmove.disk.interface import SourceDisk
from kvmove.errors import KvmoveError
from kvmove.mover.compression import Compression
from kvmove.mover.dispatcher import Dispatcher
from kvmove.mover.time_spent import ReadTimes, StreamTimes
from kvmove.transport.bandwidth import Bandwidth
from kvmove.transport.tcp_info import TcpInfo


class Worker(Protocol):
    """A thread that carries out what the dispatcher decides for one stream at a time."""

    name: str
    """The thread's, for the log."""

    nic: str
    """The NIC that its streams are bound to; empty if they take none."""

    number: int
    """Of the stream that it has open; -1 before the first."""

    times: StreamTimes
    """Where its time went."""

    @property
    def ident(self) -> int | None: ...

    @property
    def bytes_sent(self) -> int:
        """What the NIC has sent for the stream that is open; bytes."""

    def tcp_info(self) -> TcpInfo:
        """Of the stream that is open; zeroes without one."""

    def start(self) -> None: ...

    def join(self) -> None: ...

    def wake(self) -> None:
        """From any thread: there is something to do."""

    def cut(self) -> None:
        """From any thread: break off what can be broken off. `stopping` is set already if the worker shall end."""


class Engine(Protocol):
    """What a worker needs of the move it works for; `lock` guards `dispatcher`."""

    lock: threading.Lock
    dispatcher: Dispatcher
    disks: Sequence[SourceDisk]
    stopping: threading.Event
    bandwidth: Bandwidth
    compression: Compression
    times: ReadTimes

    def new_number(self) -> int:
        """A number for a stream that no other of this move has had."""

    def stream_opened(self, worker: Worker) -> None:
        """The stream `worker.number` is open."""

    def stream_closed(self, worker: Worker, reason: str) -> None:
        """The stream ended; the dispatcher must give its regions back."""

    def progress_made(self) -> None:
        """Acknowledgements came: answer guests, wake whoever waits. Called without the lock."""

    def failed(self, error: KvmoveError) -> None:
        """The move cannot go on."""
