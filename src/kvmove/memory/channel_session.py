"""One connection of a memory channel: bytes go both ways between the QEMU here and a stream, driven by one thread.

What holds over the connections of a channel is its `ChannelEnd`; a session may break at any moment and nothing is
lost. Every LIFE_SECONDS each end says that it lives, so silence means that the way is dead, not that there is nothing
to say or that the other QEMU does not read.

Deliberately not here: who opens the next connection (source_channel), and who may (destination_channel).
"""

from __future__ import annotations

import contextlib
import select
import socket
import time

from kvmove.memory.channel_end import CHUNK, ChannelEnd
from kvmove.transport.bandwidth import Bandwidth
from kvmove.transport.stream import Stream, StreamLost
from kvmove.wire.channel_frames import HEADER_SIZE, NOTHING, ChannelFrameKind, encode

LIFE_SECONDS = 0.5

LOOK_MS = 100
"""So often whoever drives a session may look at other things, at least."""

HELD_MS = 10
"""The same while the rate holds the channel: how often it looks whether it may go on."""

GIVE_UP_SECONDS = 1.0
"""So long may the word that a channel is given up take to be sent; it is a courtesy."""

INPUT_SIZE = CHUNK + 4 * HEADER_SIZE


class ChannelSession:
    """See the file's head. `bandwidth` says when something may be taken from QEMU; what waits for that waits there."""

    def __init__(self, end: ChannelEnd, local: socket.socket, stream: Stream, bandwidth: Bandwidth) -> None:
        self.stream = stream
        self.heard = time.monotonic()
        self._end = end
        self._local = local
        self._bandwidth = bandwidth
        self._input = memoryview(bytearray(INPUT_SIZE))
        self._rest = NOTHING
        self._payload = NOTHING
        self._told_at = self.heard
        stream.queue(end.connect())

    def step(self) -> None:
        """Move what can be moved, or wait a moment.

        :raise StreamLost: the connection broke; the channel can go on over another.
        :raise ChannelFrameError: the peer does not keep to the protocol; the channel cannot go on.
        """
        if not self._send() + self._receive():
            self._wait()

    def silence(self) -> float:
        """Seconds since anything was heard of the peer; none while the QEMU here does not take what was heard."""
        if self._payload:
            self.heard = time.monotonic()
        return time.monotonic() - self.heard

    def give_up(self) -> None:
        """Tell the peer that the channel ends here, if it can be told soon."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        with contextlib.suppress(StreamLost):
            self.stream.flush()
            if self._end.may_send:
                self.stream.queue(encode(ChannelFrameKind.GIVEN_UP))
            while self.stream.unsent and (left := deadline - time.monotonic()) > 0:
                self.stream.wait(left)
                self.stream.flush()
        self.close()

    def close(self) -> None:
        self.stream.close()

    def _send(self) -> int:
        """Bytes given to the stream, and one more for QEMU's end."""
        self.stream.flush()
        if self.stream.unsent:
            return 0
        taken = self._take()
        items = self._end.output()
        if not items and self._end.may_send and time.monotonic() - self._told_at > LIFE_SECONDS:
            items = [self._end.sign_of_life()]
        if not items:
            return taken
        self._told_at = time.monotonic()
        size = 0
        for item in items:
            self.stream.queue(item)
            size += len(item)
        self._bandwidth.sent_bulk(size)
        self.stream.flush()
        return size

    def _take(self) -> int:
        """From QEMU: 1 when it has ended."""
        room = self._end.room()
        if not room or not self._bandwidth.may_send_bulk():
            return 0
        try:
            count = self._local.recv_into(room)
        except BlockingIOError:
            return 0
        except OSError:
            count = 0
        if not count:
            self._end.end()
            return 1
        self._end.took(count)
        return count

    def _receive(self) -> int:
        """Bytes that got on: read from the stream, or passed on to QEMU."""
        if self._payload:
            return self._pass_on()
        if not self._rest:
            received = self.stream.receive_into(self._input)
            if not received:
                return 0
            self.heard = time.monotonic()
            self._rest = self._input[:received]
        size = len(self._rest)
        while self._rest and not self._payload:
            piece, self._rest = self._end.read(self._rest)
            if piece is not None and piece.payload:
                self._payload = piece.payload
                self._pass_on()
        return size

    def _pass_on(self) -> int:
        """A QEMU that has closed its end takes all; what it sent before is still to be read."""
        try:
            count = self._local.send(self._payload)
        except BlockingIOError:
            return 0
        except OSError:
            count = len(self._payload)
        self._end.passed(count)
        self._payload = self._payload[count:]
        return count

    def _wait(self) -> None:
        if self.stream.has_input() and not self._payload:
            return
        poll = select.poll()
        is_held = not self._bandwidth.may_send_bulk()
        is_wanted = not self.stream.unsent and not is_held and bool(self._end.room())
        local = (select.POLLIN if is_wanted else 0) | (select.POLLOUT if self._payload else 0)
        if local:  # else a QEMU that has closed its end would wake us all the time
            poll.register(self._local, local)
        remote = (select.POLLOUT if self.stream.unsent else 0) | (0 if self._payload else select.POLLIN)
        if remote:
            poll.register(self.stream.sock, remote)
        poll.poll(HELD_MS if is_held else LOOK_MS)
