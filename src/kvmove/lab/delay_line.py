"""The long wires of a lab: `python -m kvmove.lab.delay_line --rtt MS --switch PORT,PORT,...`, run in the world.

It takes the part of the switches between hosts: it reads each port's frames from a packet socket and writes them to
another port half a round trip later. Segments pass as the kernels of the hosts made them, 64 KiB at once
(PACKET_VNET_HDR), so one small process carries what several NICs of 1 Gbit/s bring. What a port sends is shaped by
its own queue (tbf): a frame that finds the queue full is lost there, as it would be on the way.

A port may go and come again (a host powered off and on); it is looked for every LOOK_SECONDS. It ends with the world.
Standard library only: it has to start before anything that it connects.
"""

import argparse
import contextlib
import os
import select
import socket
import time

from kvmove.lab.delay_switch import DelaySwitch

LOOK_SECONDS = 0.2
BATCH = 32
"""Frames read from a port before the others, and what is due, get their turn."""

LARGEST_FRAME = 66 * 1024
BUFFER = 64 * 1024 * 1024
"""Bytes that may wait in a socket while the processor is busy: half a second of 1 Gbit/s."""

_ETH_P_ALL = 3  # Linux: include/uapi/linux/if_ether.h, if_packet.h, socket.h; Python's socket module does not name them
_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_PRIORITY = 10


class _Port:
    """One port by its name: its socket while the device is there."""

    def __init__(self, name: str, switch: DelaySwitch) -> None:
        self.name = name
        self.switch = switch
        self.socket: socket.socket | None = None
        self._index = 0

    def look(self) -> None:
        """Open the device's socket, anew if it is another device than before."""
        try:
            index = socket.if_nametoindex(self.name)
        except OSError:
            index = 0
        if index == self._index:
            return
        if self.socket is not None:
            self.socket.close()
        self.socket = _opened(self.name) if index else None
        self._index = index if self.socket is not None else 0

    def read(self, now: float) -> None:
        """Take what has come."""
        if self.socket is None:
            return
        with contextlib.suppress(OSError):  # nothing more now, or the device is going
            for _ in range(BATCH):
                self.switch.arrived(self.name, self.socket.recv(LARGEST_FRAME), now)

    def write(self, frame: bytes) -> None:
        """Send a frame, or lose it: the port's queue is full, or the device is going."""
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.send(frame)


def _opened(device: str) -> socket.socket | None:
    """A socket that gives what `device` receives and sends what it is given; None if the device goes meanwhile."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)  # 0: nothing before it is bound
    try:
        sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
        sock.bind((device, _ETH_P_ALL))
    except OSError:
        sock.close()
        return None
    return sock


def carry(rtt_ms: float, switches: list[list[str]]) -> None:
    """Carry frames between the ports of each switch; does not return."""
    made = [DelaySwitch(ports, rtt_ms / 2000) for ports in switches]
    ports = {port: _Port(port, switch) for switch in made for port in switch.ports}
    look_at = 0.0
    while True:
        now = time.monotonic()
        if now >= look_at:
            for port in ports.values():
                port.look()
            look_at = now + LOOK_SECONDS
        due = [at for switch in made if (at := switch.next_due()) is not None]
        sockets = {port.socket: port for port in ports.values() if port.socket is not None}
        ready, _, _ = select.select(sockets, (), (), max(0.0, min([look_at, *due]) - now))
        now = time.monotonic()
        for sock in ready:
            sockets[sock].read(now)
        for switch in made:
            for name, frame in switch.leaving(now):
                ports[name].write(frame)


def main() -> None:
    """Carry until killed. It runs before other processes: a wire does not wait for a busy processor."""
    parser = argparse.ArgumentParser(description="Carry frames between ports, late.")
    parser.add_argument("--rtt", type=float, required=True, metavar="MS")
    parser.add_argument("--switch", action="append", required=True, metavar="PORT,PORT,...")
    given = parser.parse_args()
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))
    carry(given.rtt, [switch.split(",") for switch in given.switch])


if __name__ == "__main__":
    main()
