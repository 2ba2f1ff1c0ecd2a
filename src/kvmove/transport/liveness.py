"""What the kernel knows of a TCP connection: whether its peer answers, and how fast. No decisions.

A dead path is told from a slow peer here and nowhere else: a peer whose application stands still closes its window and
goes on answering, one that cannot be reached answers nothing, whatever is sent again.

Deliberately not here: when a stream that is not answered is given up (mover/stream_watch).
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

PROBE_SECONDS = 1
"""An idle connection asks its peer for a sign so often: a dead path is known before the next write needs it."""

_INFO = struct.Struct("=2xBB52xI8xI48xQ")
"""Of struct tcp_info (linux/tcp.h): retransmits, probes, last_ack_recv (ms), rtt (us), bytes_acked."""


@dataclass(frozen=True, slots=True)
class Liveness:
    """One connection now. `acknowledged`: bytes that its peer's kernel has taken, all in all.

    `unanswered`: how often in a row the same was sent again, or the peer was asked for a sign, without any answer;
    `silent`: seconds since the last answer; `round_trip`: seconds.
    """

    acknowledged: int
    unanswered: int
    silent: float
    round_trip: float


def liveness(sock: socket.socket) -> Liveness:
    """:raise OSError: the socket is closed."""
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    retransmits, probes, last_answer, round_trip, acknowledged = _INFO.unpack(raw)
    return Liveness(acknowledged, retransmits + probes, last_answer / 1000, round_trip / 1e6)


def probe_often(sock: socket.socket) -> None:
    """Ask the peer for a sign each PROBE_SECONDS while nothing is sent. How long silence is borne stays as it was."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_SECONDS)
