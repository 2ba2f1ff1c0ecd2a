"""The source's end of a memory channel: the one that opens its connections, and the next when one is lost.

    connection broke              another is opened, over whichever route answers
    nothing heard for STALL       another is opened over another route, if one answers; the old one serves until then
    no route for `give_up`        the channel is given up
    refused, or ended there       the same, at once

A channel that is given up is *not* broken towards QEMU: it is read on, into the void, until QEMU closes it (why:
channel_relay). One thread a channel, which `run` is called in.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kvmove.memory.channel_end import ChannelEnd
from kvmove.memory.channel_session import ChannelSession
from kvmove.memory.redial import Redial
from kvmove.memory.route_choice import routes_to_try
from kvmove.model.move import Route
from kvmove.transport.bandwidth import Bandwidth
from kvmove.transport.priority import yield_to_guests
from kvmove.transport.stream import Stream, StreamLost
from kvmove.wire.channel_frames import ChannelFrameError

log = logging.getLogger(__name__)

STALL_SECONDS = 2.0
"""Four signs of life that did not come."""

LIVELY_SECONDS = 1.0
"""A connection that broke so soon after something was heard of it says nothing against its route."""

WAIT_SECONDS = 0.1
"""Without a connection: how often is looked whether the channel is still wanted."""

DRAIN_CHUNK = 256 * 1024
DRAIN_SECONDS = 600.0
"""A QEMU that neither sends nor closes for so long is left to itself."""


@dataclass(frozen=True, slots=True)
class ChannelTerms:
    """What all channels of a move share. `dial` opens a stream for a channel's number and its attempt; `load` tells
    how many channels each NIC carries; `give_up` is in seconds."""

    routes: Sequence[Route]
    dial: Callable[[Route, int, int], Stream]
    load: Callable[[], Mapping[str, int]]
    bandwidth: Bandwidth
    give_up: float


class SourceChannel:
    """See the file's head. `local` is QEMU's connection; `route` is the one to begin with."""

    def __init__(self, number: int, local: socket.socket, route: Route, terms: ChannelTerms) -> None:
        self.lost = ""
        """Why it was given up; empty while it was not."""
        self.resumed = 0
        """How many connections took the place of another."""
        self._number = number
        self._local = local
        self._route = route
        self._terms = terms
        self._end = ChannelEnd()
        self._attempt = 0
        self._session: ChannelSession | None = None
        self._redial: Redial | None = None
        self._heard = time.monotonic()
        self._is_lively = True
        self._is_open = False
        self._unwanted = threading.Event()
        self._lock = threading.Lock()
        self._sent: dict[str, int] = {}

    @property
    def nic(self) -> str:
        """The NIC that carries it, or did last."""
        return self._route.nic

    def sent(self) -> dict[str, int]:
        """From any thread: bytes sent so far over all its connections, by NIC."""
        with self._lock:
            total = dict(self._sent)
            if self._session is not None:
                stream = self._session.stream
                total[stream.nic] = total.get(stream.nic, 0) + stream.bytes_sent
        return total

    def give_up(self) -> None:
        """From any thread: send nothing more."""
        self._unwanted.set()

    def open(self) -> bool:
        """Wait for the first connection; False when there is none, and `lost` says why."""
        try:
            while self._session is None:
                self._look_for_connection(WAIT_SECONDS)
        except StreamLost as error:
            self._lose(error)
        return not self.lost

    def run(self) -> None:
        """Open it, if `open` has not, and carry it: until QEMU has closed the channel and all of it is delivered, or it
        was given up and QEMU has closed it."""
        yield_to_guests()
        try:
            if not self.lost:
                self._local.setblocking(False)
                self._carry()
        except (StreamLost, ChannelFrameError) as error:
            self._lose(error)
        except Exception as error:  # else QEMU would wait for this channel for ever
            log.exception("memory channel %d failed", self._number)
            self._lose(error)
        self._close()
        if self.lost:
            drain(self._local)
        self._local.close()

    def _lose(self, error: Exception) -> None:
        self.lost = str(error) if isinstance(error, (StreamLost, ChannelFrameError)) else f"a defect of ours: {error!r}"
        log.info("memory channel %d ended: %s", self._number, error)

    def _carry(self) -> None:
        """Until all is delivered.

        :raise StreamLost, ChannelFrameError: the channel is given up.
        """
        while not self._end.is_delivered:
            self._require_wanted()
            session = self._session
            if session is None:
                self._look_for_connection(WAIT_SECONDS)
                continue
            if self._redial is not None or self._is_silent(session):
                self._look_for_connection(0)
            self._step()

    def _step(self) -> None:
        assert self._session is not None
        try:
            self._session.step()
        except StreamLost as error:
            self._heard = self._session.heard
            self._is_lively = time.monotonic() - self._heard < LIVELY_SECONDS
            log.info("memory channel %d lost its connection over %s: %s", self._number, self.nic, error)
            self._drop()
        if self._end.is_given_up_there:
            raise StreamLost("the destination gave the channel up")
        if self._end.is_ended_there and not self._end.is_ended:
            raise StreamLost("the destination's QEMU closed the channel")

    # Connections.

    def _is_silent(self, session: ChannelSession) -> bool:
        return session.silence() > STALL_SECONDS and any(route != self._route for route in self._terms.routes)

    def _require_wanted(self) -> None:
        if self._unwanted.is_set():
            raise StreamLost("the move was given up")

    def _look_for_connection(self, seconds: float) -> None:
        """Wait so long for one, and use it if it is there.

        :raise StreamLost: none will come.
        """
        self._require_wanted()
        if self._redial is None:
            self._redial = Redial(self._candidates, self._dial)
        opened = self._redial.result(seconds)
        if opened is not None:
            self._redial = None
            self._use(*opened)
        elif self._session is None and time.monotonic() - self._heard > self._terms.give_up:
            raise StreamLost(f"no route answered for {self._terms.give_up:.0f} s: {self._redial.failure or 'silence'}")

    def _candidates(self) -> Sequence[Route]:
        """A route whose connection is silent, and not broken yet, is not tried: it would not be better."""
        tried = routes_to_try(self._terms.routes, self._route, self._terms.load(), is_lively=self._is_lively)
        is_silent = self._session is not None
        return [route for route in tried if not is_silent or route != self._route]

    def _dial(self, route: Route) -> Stream:
        self._attempt += 1
        return self._terms.dial(route, self._number, self._attempt)

    def _use(self, route: Route, stream: Stream) -> None:
        self._drop()
        if self._is_open:
            self.resumed += 1
            log.info("memory channel %d goes on over %s, from byte %d", self._number, route.nic, self._end.acknowledged)
        self._is_open = True
        session = ChannelSession(self._end, self._local, stream, self._terms.bandwidth)
        with self._lock:
            self._session, self._route = session, route

    def _drop(self) -> None:
        """The connection is of no use any more; what it sent stays counted."""
        if self._session is None:
            return
        self._session.close()
        stream = self._session.stream
        with self._lock:
            self._sent[stream.nic] = self._sent.get(stream.nic, 0) + stream.bytes_sent
            self._session = None

    def _close(self) -> None:
        if self._redial is not None:
            self._redial.abandon()
        if self._session is not None and self.lost:
            self._session.give_up()
        self._drop()


def drain(local: socket.socket) -> None:
    """Read what QEMU still sends, and drop it, until QEMU closes the channel."""
    void = bytearray(DRAIN_CHUNK)
    local.settimeout(DRAIN_SECONDS)
    with contextlib.suppress(OSError):
        while local.recv_into(void):
            pass
