"""What the kernel tells of a TCP connection: its round trip, and what held its sending up (tcp(7), TCP_INFO).

The times are counted by the kernel while there is something to send, from the connection's start. Linux keeps them
since 4.10; an older kernel's answer is shorter, and gives zeroes.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_SIZE = 192
_RTT = struct.Struct("=68xI")
_LIMITED = struct.Struct("=168xQQQ")
"""struct tcp_info of linux/tcp.h: tcpi_rtt at 68; tcpi_busy_time, tcpi_rwnd_limited, tcpi_sndbuf_limited at 168."""

_MICRO = 1e-6


class TcpInfo(NamedTuple):
    """Seconds. `receiver_limited`: the peer's window was full; `buffer_limited`: our socket's buffer was, with what the
    peer had yet to acknowledge, as it is where the round trip is long for it."""

    round_trip: float = 0.0
    receiver_limited: float = 0.0
    buffer_limited: float = 0.0


NOTHING_KNOWN = TcpInfo()


def read_tcp_info(sock: socket.socket) -> TcpInfo:
    """:raise OSError: the socket is closed."""
    return parse_tcp_info(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE))


def parse_tcp_info(raw: bytes) -> TcpInfo:
    """The kernel's answer, whatever its length."""
    whole = raw.ljust(_SIZE, b"\0")
    (round_trip,) = _RTT.unpack_from(whole)
    _, receiver, buffer = _LIMITED.unpack_from(whole)
    return TcpInfo(round_trip * _MICRO, receiver * _MICRO, buffer * _MICRO)
