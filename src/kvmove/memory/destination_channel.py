"""The destination's end of a memory channel: it takes the connections that the source opens, one after the other.

Invariant: one connection drives the channel at a time. A later attempt takes the place of an earlier one, which is
closed first: nothing of it is passed on any more once the later one is welcomed. An earlier attempt that comes late is
refused. QEMU's side stays open in between, for as long as the move is expected here.

A connection runs in the thread that it came in. Deliberately not here: whether its peer may (transport.listener).
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from functools import partial

from kvmove.memory.channel_end import ChannelEnd
from kvmove.memory.channel_session import ChannelSession
from kvmove.transport.bandwidth import Bandwidth
from kvmove.transport.priority import yield_to_guests
from kvmove.transport.stream import Stream, StreamLost
from kvmove.wire.channel_frames import ChannelFrameError

log = logging.getLogger(__name__)

SUPERSEDE_SECONDS = 3.0
"""So long may the connection before take to end once it was shut down."""


class DestinationChannel:
    """See the file's head. `local` is connected to the waiting QEMU."""

    def __init__(self, number: int, local: socket.socket) -> None:
        self.lost = ""
        """Why it ended before QEMU closed it; empty while it did not."""
        self._number = number
        self._local = local
        self._local.setblocking(False)
        self._end = ChannelEnd()
        self._latest = -1
        self._stream: Stream | None = None
        self._is_over = False
        self._lock = threading.Lock()  # of what is above
        self._driving = threading.Lock()

    def take(self, attempt: int, stream: Stream) -> Callable[[], None]:
        """What runs the connection. The one before has ended when this returns.

        :raise StreamLost: a later one was there already, or the channel is over.
        """
        with self._lock:
            if self._is_over:
                raise StreamLost(self.lost or "the move is over")
            if attempt <= self._latest:
                raise StreamLost(f"attempt {attempt} of memory channel {self._number} came after {self._latest}")
            self._latest = attempt
            if self._stream is not None:
                self._stream.shutdown()
            self._stream = stream
        if not self._driving.acquire(timeout=SUPERSEDE_SECONDS):
            raise StreamLost(f"memory channel {self._number} is busy")
        self._driving.release()
        return partial(self._run, attempt, stream)

    def close(self) -> None:
        """From any thread: break it, towards QEMU too."""
        with self._lock:
            self._is_over = True
            if self._stream is not None:
                self._stream.shutdown()
        self._close_local()

    def _run(self, attempt: int, stream: Stream) -> None:
        yield_to_guests()
        with self._driving:
            session = ChannelSession(self._end, self._local, stream, Bandwidth())
            try:
                while self._is_driven_by(attempt):
                    session.step()
                    self._look()
            except StreamLost as error:
                log.info("memory channel %d has no connection over %s any more: %s", self._number, stream.nic, error)
            except ChannelFrameError as error:
                log.error("memory channel %d ended: %s", self._number, error)
                self._lose(str(error))
            except Exception as error:  # else the source would wait for this connection for ever
                log.exception("memory channel %d failed", self._number)
                self._lose(f"a defect of ours: {error!r}")
            session.close()
        self._close_local()

    def _is_driven_by(self, attempt: int) -> bool:
        with self._lock:
            return attempt == self._latest and not self._is_over

    def _look(self) -> None:
        """Whether the source's end has ended: then QEMU's here does, after all that came before."""
        if self._end.is_ended_there:
            self._local.close()
        elif self._end.is_given_up_there:
            self._lose("the source gave it up")

    def _lose(self, why: str) -> None:
        with self._lock:
            self.lost, self._is_over = why, True

    def _close_local(self) -> None:
        """Once it is over; by whoever drives it last."""
        if self._is_over and self._driving.acquire(blocking=False):
            self._local.close()
            self._driving.release()
