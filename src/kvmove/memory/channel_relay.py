"""QEMU's migration connections, each over a stream of its own between the hosts.

QEMU connects to a Unix socket of the source's relay: one main channel and, with multifd, several more. Each becomes a
stream (role MEMORY) to the destination, where the other end connects to the Unix socket of the waiting QEMU.

- QEMU 7.2 takes the first connection it accepts for the main channel, so the relay tells them apart by their first
  four bytes, connects the main channel first, and holds the others back until the destination has it.
- One stream per channel: QEMU 7.2 reads nothing from main until all multifd channels are there, and later stops
  reading main while it waits for them, so channels that shared a connection would deadlock.
- An end on one side is passed on at once, after what came before it.
- A break in the network is *not* passed on to the source's QEMU: its channel is read on, into the void, until it is
  closed. QEMU 7.2 hangs for good in `multifd_send_sync_main` (migration/multifd.c) when multifd channels break
  together: a channel's thread that sees the end first leaves without posting the semaphore that the migration's thread
  waits for. Cancelled over channels that are whole it ends well. So whoever runs the move watches `why` and cancels.

The source's relay runs in a process of its own (relay_process), because a killed agent must not break channels either.

One thread per channel. Deliberately not here: what the bytes mean, and QMP.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kvmove.log_context import inherited
from kvmove.transport.bandwidth import Bandwidth
from kvmove.transport.priority import yield_to_guests
from kvmove.transport.stream import Stream, StreamLost

log = logging.getLogger(__name__)

MAIN_MAGIC = b"QEVM"
"""First bytes of the main channel (QEMU migration/savevm.c, QEMU_VM_FILE_MAGIC); multifd's are 11 22 33 44."""

MAIN_CHANNEL = 0
CHUNK = 256 * 1024
CONNECT_SECONDS = 10.0
RECEIVE_TIMEOUT = struct.pack("ll", int(CONNECT_SECONDS), 0)
HELD_MS = 10
"""How often a channel that is held looks whether it may go on."""

DRAIN_SECONDS = 600.0
"""A QEMU that neither sends nor closes for so long is left to itself."""


class ChannelPump:
    """Carries bytes both ways between a Unix socket of QEMU and a stream, in one thread (see `transport.stream`)."""

    def __init__(
        self, local: socket.socket, stream: Stream, *, keep_local: bool, bandwidth: Bandwidth | None = None
    ) -> None:
        """With `keep_local` a broken stream leaves QEMU's side open until QEMU closes it. `bandwidth` says when
        something may be taken from QEMU; what waits for that waits there, so a held channel has nothing under way."""
        self.stream = stream
        self.lost = ""
        self._keep_local = keep_local
        self._bandwidth = bandwidth or Bandwidth()
        self._local = local
        self._from_local = memoryview(bytearray(CHUNK))
        self._to_local = memoryview(bytearray(CHUNK))
        self._waiting = self._to_local[:0]
        local.setblocking(False)

    def run(self) -> None:
        """Until either side ends; then both are closed."""
        yield_to_guests()
        try:
            while self._step():
                pass
        except StreamLost as error:
            self.lost = str(error)
            log.info("a memory channel ended: %s", error)
        except OSError as error:
            log.info("QEMU ended a memory channel: %s", error)
        finally:
            with contextlib.suppress(OSError):
                self._flush_local()
            self.stream.close()
            if self.lost and self._keep_local:
                drain(self._local)
            self._local.close()

    def cut(self) -> None:
        """From any thread: break the channel."""
        self.stream.shutdown()

    def _step(self) -> bool:
        """Move what can be moved; False once QEMU has closed its side and all of it is sent."""
        moved = self._local_to_stream()
        if moved is None:
            while self.stream.unsent:
                self.stream.wait(1.0)
                self.stream.flush()
            return False
        if not self._waiting:
            received = self.stream.receive_into(self._to_local)
            self._waiting = self._to_local[:received]
            moved += received
        moved += self._flush_local()
        if not moved:
            self._wait()
        return True

    def _local_to_stream(self) -> int | None:
        """Bytes taken from QEMU; None at its end."""
        self.stream.flush()
        if self.stream.unsent or not self._bandwidth.may_send_bulk():
            return 0
        try:
            count = self._local.recv_into(self._from_local)
        except BlockingIOError:
            return 0
        if count == 0:
            return None
        self._bandwidth.sent_bulk(count)
        self.stream.queue(self._from_local[:count])
        self.stream.flush()
        return count

    def _flush_local(self) -> int:
        sent = 0
        while self._waiting:
            try:
                count = self._local.send(self._waiting)
            except BlockingIOError:
                break
            self._waiting = self._waiting[count:]
            sent += count
        return sent

    def _wait(self) -> None:
        if self.stream.has_input() and not self._waiting:
            return
        poll = select.poll()
        is_held = not self._bandwidth.may_send_bulk()
        local = 0 if self.stream.unsent or is_held else select.POLLIN
        remote = select.POLLOUT if self.stream.unsent else 0
        if self._waiting:
            local |= select.POLLOUT
        else:
            remote |= select.POLLIN
        if local:
            poll.register(self._local, local)
        poll.register(self.stream.sock, remote)
        poll.poll(HELD_MS if is_held else 1000)


def drain(local: socket.socket) -> None:
    """Read what QEMU still sends, and drop it, until QEMU closes the channel."""
    void = bytearray(CHUNK)
    local.settimeout(DRAIN_SECONDS)
    with contextlib.suppress(OSError):
        while local.recv_into(void):
            pass


class SourceRelay:
    """Listens for the source's QEMU. `dial` opens the stream of a channel by its number (0 is main)."""

    def __init__(self, path: Path, channels: int, dial: Callable[[int], Stream]) -> None:
        self.failure = ""
        self.bandwidth = Bandwidth()
        self.open_channels = 0
        self._path = path
        self._expected = 1 + channels
        self._dial = dial
        self._pumps: list[ChannelPump] = []
        self._lock = threading.Lock()
        self._given_up = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(self._expected)
        self._thread = threading.Thread(target=inherited(self._accept_all), name="memory-accept", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def why(self) -> str:
        """What of the network failed; empty while it is whole."""
        with self._lock:
            return self.failure or _first_loss(self._pumps)

    def sent(self) -> dict[str, int]:
        """Bytes sent so far, by NIC."""
        total: dict[str, int] = {}
        with self._lock:
            for pump in self._pumps:
                total[pump.stream.nic] = total.get(pump.stream.nic, 0) + pump.stream.bytes_sent
        return total

    def give_up(self) -> None:
        """Send nothing more. QEMU's channels, also those that it opens from now on, are read until QEMU closes them."""
        with self._lock:
            self._given_up = True
            pumps = list(self._pumps)
        for pump in pumps:
            pump.cut()

    def close(self) -> None:
        """Listen no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _accept_all(self) -> None:
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
        """Connect a channel to the destination; one that cannot be is read into the void."""
        run: Callable[[], None] = partial(_drain_and_close, local)
        try:
            if not self._given_up:
                pump = ChannelPump(local, self._dial(len(self._pumps)), keep_local=True, bandwidth=self.bandwidth)
                run = pump.run
                with self._lock:
                    self._pumps.append(pump)
                if self._given_up:
                    pump.cut()
        except StreamLost as error:
            self.failure = self.failure or f"a memory channel could not be opened: {error}"
            log.warning("%s", self.failure)
        threading.Thread(target=inherited(self._run), args=(run,), name="memory-channel", daemon=True).start()

    def _run(self, run: Callable[[], None]) -> None:
        with self._lock:
            self.open_channels += 1
        try:
            run()
        finally:
            with self._lock:
                self.open_channels -= 1


def _drain_and_close(local: socket.socket) -> None:
    drain(local)
    local.close()


class DestinationRelay:
    """Connects incoming memory channels to the Unix socket of the waiting QEMU."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._main_is_open = threading.Event()
        self._pumps: list[ChannelPump] = []
        self._lock = threading.Lock()
        self._closed = False

    def accept(self, number: int, stream: Stream) -> Callable[[], None]:
        """Connect a channel to QEMU; the source is welcomed only after that, so main is first there.

        :raise StreamLost: QEMU does not listen, or another channel came before main.
        """
        if number != MAIN_CHANNEL and not self._main_is_open.wait(CONNECT_SECONDS):
            raise StreamLost("the main channel is not open")
        local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            local.connect(str(self._path))
        except OSError as error:
            local.close()
            raise StreamLost(f"the destination's QEMU does not take the channel: {error}") from error
        pump = ChannelPump(local, stream, keep_local=False)
        with self._lock:
            if self._closed:
                local.close()
                raise StreamLost("the move is over")
            self._pumps.append(pump)
        if number == MAIN_CHANNEL:
            self._main_is_open.set()
        return pump.run

    def why(self) -> str:
        """The network's part in QEMU's end; empty when it had none."""
        with self._lock:
            return _first_loss(self._pumps)

    def close(self) -> None:
        """Break all channels."""
        with self._lock:
            self._closed = True
            pumps = list(self._pumps)
        for pump in pumps:
            pump.cut()


def _first_loss(pumps: list[ChannelPump]) -> str:
    return next((f"a memory stream broke: {pump.lost}" for pump in pumps if pump.lost), "")
