"""Whether two bridges of equal name on two hosts are one network: raw Ethernet frames sent here, heard there.

The frames have the ethertype that IEEE 802 leaves for experiments, are broadcast, and carry a random token; guests
ignore them. Invariant: a frame that arrived before `heard` was called is found, because the socket was open before the
sender began and keeps what comes; so a busy host is never taken for a broken network.

Needs CAP_NET_RAW. Blocking; meant for a thread.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time

ETHERTYPE = 0x88B5
FRAMES = 5
GAP_SECONDS = 0.02
_BROADCAST = b"\xff" * 6
_MARK = b"kvmove-probe:"
_SMALLEST_PAYLOAD = 46
_LARGEST_FRAME = 2048


class Ear:
    """Listens on one bridge for frames with `token` from its making on. Close it.

    :raise OSError: there is no such bridge, or this process may not listen.
    """

    def __init__(self, bridge: str, token: str) -> None:
        self.bridge = bridge
        self._payload = _payload(token)
        self._socket = _open(bridge)

    def heard(self, within: float) -> bool:
        """Whether such a frame has come, or comes within so many seconds.

        :raise OSError: the bridge is down (ENETDOWN), or gone.
        """
        deadline = time.monotonic() + within
        while True:
            ready, _, _ = select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return False
            if self._payload in self._socket.recv(_LARGEST_FRAME):
                return True

    def close(self) -> None:
        self._socket.close()


def call(bridge: str, token: str) -> None:
    """Send the frames on `bridge`; takes FRAMES * GAP_SECONDS.

    :raise OSError: there is no such bridge, it is down, or this process may not send.
    """
    with contextlib.closing(_open(bridge)) as sock:
        own = sock.getsockname()[4]
        frame = _BROADCAST + own + ETHERTYPE.to_bytes(2, "big") + _payload(token).ljust(_SMALLEST_PAYLOAD, b"\0")
        for _ in range(FRAMES):
            sock.send(frame)
            time.sleep(GAP_SECONDS)


def _open(bridge: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
    try:
        sock.bind((bridge, ETHERTYPE))
    except BaseException:
        sock.close()
        raise
    return sock


def _payload(token: str) -> bytes:
    return _MARK + token.encode()
