"""What lies between two migration NICs: whether the data port is reached, how long a round trip takes, and whether
packets of full size arrive whole.

The data port itself is tried, from the NIC's own address, as a stream would: what a firewall does to streams it does to
the probe. The size is tried with pings that may not be fragmented; the other host's kernel answers those, and where it
does not, the size is not told.

Bounded: at most ATTEMPTS connections and PINGS pings of each size, each with a deadline. Blocking; meant for a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import statistics
import struct
import time

from kvmove.model.probe import NicPair, PairProbe

ATTEMPTS = 5
CONNECT_SECONDS = 1.5
PINGS = 2
PING_SECONDS = 0.4
_SMALL_PING = 84
_IP_HEADER = 20
_ICMP_HEADER = 8
_ECHO_REQUEST = 8
_ECHO_REPLY = 0
_IP_MTU_DISCOVER = 10  # Linux: include/uapi/linux/in.h; Python's socket module does not name them
_IP_PMTUDISC_PROBE = 3  # sets "don't fragment" and ignores what is known of the path


def probe_pair(pair: NicPair, port: int) -> PairProbe:
    """Try one pair of NICs. Raises nothing: what goes wrong is the answer."""
    found = PairProbe(**pair.model_dump(exclude={"mtu"}), reachable=False)
    try:
        seconds = [_connect(pair, port) for _ in range(ATTEMPTS)]
    except OSError as error:
        return found.model_copy(update={"reason": _words(error)})
    trip = round(statistics.median(seconds) * 1000, 3)
    whole = _arrives_whole(pair) if pair.mtu else None
    return found.model_copy(update={"reachable": True, "round_trip_ms": trip, "mtu": pair.mtu, "whole": whole})


def _connect(pair: NicPair, port: int) -> float:
    """Connect to the data port and say nothing; the seconds that it took, which are one round trip."""
    began = time.monotonic()
    sock = socket.create_connection((pair.destination_address, port), CONNECT_SECONDS, (pair.source_address, 0))
    took = time.monotonic() - began
    sock.close()
    return took


def _arrives_whole(pair: NicPair) -> bool | None:
    """Whether a packet of `pair.mtu` bytes arrives; None when pings are not answered at all, or may not be sent."""
    try:
        if any(_ping(pair, pair.mtu) for _ in range(PINGS)):
            return True
        return False if any(_ping(pair, _SMALL_PING) for _ in range(PINGS)) else None
    except OSError:
        return None


def _ping(pair: NicPair, size: int) -> bool:
    """Whether a ping that makes a packet of `size` bytes is answered."""
    number, payload = os.urandom(2), b"\0" * (size - _IP_HEADER - _ICMP_HEADER)
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as sock:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        sock.bind((pair.source_address, 0))
        try:
            sock.sendto(_echo(number, payload), (pair.destination_address, 0))
        except OSError as error:
            if error.errno == errno.EMSGSIZE:  # the NIC that it leaves by takes no packet of this size
                return False
            raise
        deadline = time.monotonic() + PING_SECONDS
        while select.select([sock], [], [], max(0.0, deadline - time.monotonic()))[0]:
            answer, sender = sock.recvfrom(65536)
            message = answer[(answer[0] & 0xF) * 4 :]
            if sender[0] == pair.destination_address and message[0] == _ECHO_REPLY and message[4:6] == number:
                return True
    return False


def _echo(number: bytes, payload: bytes) -> bytes:
    """An ICMP echo request (RFC 792) with its checksum (RFC 1071)."""
    message = struct.pack("!BBH", _ECHO_REQUEST, 0, 0) + number + b"\0\1" + payload
    padded = message + b"\0" * (len(message) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~(total + (total >> 16)) & 0xFFFF
    return message[:2] + struct.pack("!H", total) + message[4:]


def _words(error: OSError) -> str:
    return (
        "no answer: the packets, or the answers, are lost"
        if isinstance(error, TimeoutError)
        else str(error.strerror or error)
    )
