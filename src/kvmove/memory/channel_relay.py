"""QEMU's migration connections, each over a stream of its own between the hosts.

QEMU connects to a Unix socket of the source's relay: one main channel and, with multifd, several more. Each becomes a
stream (role MEMORY) to the destination, where the other end connects to the Unix socket of the waiting QEMU.

- QEMU 7.2 takes the first connection it accepts for the main channel, so the relay tells them apart by their first
  four bytes, connects the main channel first, and holds the others back until the destination has it.
- One stream per channel at a time: QEMU 7.2 reads nothing from main until all multifd channels are there, and later
  stops reading main while it waits for them, so channels that shared a connection would deadlock.
- An end on one side is passed on at once, after what came before it.
- A break in the network is bridged: a channel goes on over another connection (source_channel, destination_channel).
- A channel that no route carries any more is *not* broken towards the source's QEMU: it is read on, into the void,
  until it is closed. QEMU 7.2 hangs for good in `multifd_send_sync_main` (migration/multifd.c) when multifd channels
  break together: a channel's thread that sees the end first leaves without posting the semaphore that the migration's
  thread waits for. Cancelled over channels that are whole it ends well. So whoever runs the move watches `why` and
  cancels.

The source's relay runs in a process of its own (relay_process), because a killed agent must not break channels either.

One thread per channel, and one more while its connection is being replaced. Deliberately not here: what the bytes mean,
and QMP.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kvmove.log_context import inherited
from kvmove.memory.destination_channel import DestinationChannel
from kvmove.memory.source_channel import ChannelTerms, SourceChannel
from kvmove.model.move import Route
from kvmove.transport.bandwidth import Bandwidth
from kvmove.transport.stream import Stream, StreamLost

log = logging.getLogger(__name__)

MAIN_MAGIC = b"QEVM"
"""First bytes of the main channel (QEMU migration/savevm.c, QEMU_VM_FILE_MAGIC); multifd's are 11 22 33 44."""

MAIN_CHANNEL = 0
CONNECT_SECONDS = 10.0
RECEIVE_TIMEOUT = struct.pack("ll", int(CONNECT_SECONDS), 0)


class SourceRelay:
    """Listens for the source's QEMU. `routes` has the NIC pair of each channel to begin with, main first; `dial` opens
    a stream over a route, for a channel's number (0 is main) and the count of its attempts. A channel for which no
    route answers for `give_up` seconds is given up."""

    def __init__(
        self, path: Path, routes: Sequence[Route], dial: Callable[[Route, int, int], Stream], give_up: float
    ) -> None:
        self.bandwidth = Bandwidth()
        self.open_channels = 0
        self._path = path
        self._routes = routes
        self._terms = ChannelTerms(routes, dial, self._load, self.bandwidth, give_up)
        self._channels: list[SourceChannel] = []
        self._lock = threading.Lock()
        self._given_up = False
        self._failure = ""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(len(routes))
        self._thread = threading.Thread(target=inherited(self._accept_all), name="memory-accept", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def why(self) -> str:
        """Which channel was given up, and why; empty while all are whole, or are being resumed, and more are taken."""
        with self._lock:
            return self._failure or _first_loss(self._channels)

    def sent(self) -> dict[str, int]:
        """Bytes sent so far, by NIC; what was sent again counts again."""
        total: dict[str, int] = {}
        with self._lock:
            for channel in self._channels:
                for nic, count in channel.sent().items():
                    total[nic] = total.get(nic, 0) + count
        return total

    def resumed(self) -> int:
        """How often a connection took the place of another."""
        with self._lock:
            return sum(channel.resumed for channel in self._channels)

    def give_up(self) -> None:
        """Send nothing more. QEMU's channels, also those that it opens from now on, are read until QEMU closes them."""
        with self._lock:
            self._given_up = True
            channels = list(self._channels)
        for channel in channels:
            channel.give_up()

    def close(self) -> None:
        """Listen no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _accept_all(self) -> None:
        try:
            self._accept_until_closed()
        except Exception as error:  # else QEMU would wait for its channels for ever
            log.exception("accepting QEMU's channels failed")
            self._failure = f"QEMU's channels are not taken any more, by a defect of ours: {error!r}"

    def _accept_until_closed(self) -> None:
        held: list[socket.socket] = []
        main_is_open = False
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                local, _ = self._listener.accept()
                if main_is_open:
                    self._open(local)
                elif self._first_bytes(local) == MAIN_MAGIC:
                    self._open(local)
                    main_is_open = True
                    while held:
                        self._open(held.pop(0))
                else:
                    held.append(local)
        for local in held:
            local.close()

    @staticmethod
    def _first_bytes(local: socket.socket) -> bytes:
        """The channel's magic, left in the socket."""
        local.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, RECEIVE_TIMEOUT)  # `settimeout` would undo MSG_WAITALL
        with contextlib.suppress(BlockingIOError):
            return local.recv(len(MAIN_MAGIC), socket.MSG_PEEK | socket.MSG_WAITALL)
        return b""

    def _open(self, local: socket.socket) -> None:
        """Connect a channel to the destination: main before this returns, the others at once, each in its own thread.
        One that cannot be is read into the void."""
        with self._lock:
            number = len(self._channels)
            channel = SourceChannel(number, local, self._routes[number % len(self._routes)], self._terms)
            self._channels.append(channel)
            if self._given_up:
                channel.give_up()
        if number == MAIN_CHANNEL:
            channel.open()
        threading.Thread(target=inherited(self._run), args=(channel,), name="memory-channel", daemon=True).start()

    def _run(self, channel: SourceChannel) -> None:
        with self._lock:
            self.open_channels += 1
        try:
            channel.run()
        finally:
            with self._lock:
                self.open_channels -= 1

    def _load(self) -> dict[str, int]:
        """How many channels each NIC carries."""
        with self._lock:
            return dict(Counter(channel.nic for channel in self._channels))


class DestinationRelay:
    """Connects incoming memory channels to the Unix socket of the waiting QEMU."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._main_is_open = threading.Event()
        self._channels: dict[int, DestinationChannel] = {}
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._closed = False

    def accept(self, number: int, attempt: int, stream: Stream) -> Callable[[], None]:
        """Take a connection of a channel. The first one is connected to QEMU, and the source is welcomed only after
        that, so main is first there.

        :raise StreamLost: QEMU does not listen, another channel came before main, a later attempt came before this, or
            the channel is over.
        """
        if number != MAIN_CHANNEL and not self._main_is_open.wait(CONNECT_SECONDS):
            raise StreamLost("the main channel is not open")
        with self._opening:
            channel = self._channels.get(number) or self._connect(number)
        if number == MAIN_CHANNEL:
            self._main_is_open.set()
        return channel.take(attempt, stream)

    def _connect(self, number: int) -> DestinationChannel:
        local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            local.connect(str(self._path))
        except OSError as error:
            local.close()
            raise StreamLost(f"the destination's QEMU does not take the channel: {error}") from error
        channel = DestinationChannel(number, local)
        with self._lock:
            if self._closed:
                local.close()
                raise StreamLost("the move is over")
            self._channels[number] = channel
        return channel

    def why(self) -> str:
        """The network's part in QEMU's end; empty when it had none."""
        with self._lock:
            return _first_loss(self._channels.values())

    def close(self) -> None:
        """Break all channels."""
        with self._lock:
            self._closed = True
            channels = list(self._channels.values())
        for channel in channels:
            channel.close()


def _first_loss(channels: Iterable[SourceChannel | DestinationChannel]) -> str:
    return next((f"a memory channel was lost: {channel.lost}" for channel in channels if channel.lost), "")
