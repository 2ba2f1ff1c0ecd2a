"""The memory relay's process between two sockets that stand in for the QEMUs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmove.memory.channel_relay import MAIN_MAGIC, DestinationRelay
from kvmove.memory.relay_process import RelayOrder, RelayProcess
from kvmove.model.move import Route
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.contexts import LiveContext, server_context
from kvmove.pki.identity import Identity, Role
from kvmove.transport.listener import DataListener, Expected

TICKET = bytes(32)
MULTIFD_MAGIC = b"\x11\x22\x33\x44"


def receive(channel: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size and (part := channel.recv(size - len(content))):
        content += part
    return content


class Relayed:
    """A relay of three channels, with the listening socket of a waiting QEMU at its far end."""

    def __init__(self, folder: Path, *, encrypt: bool = True) -> None:
        create_authority(folder / "ca")
        for name in ("h1", "h2"):
            issue(folder / "ca", Identity(Role.AGENT, name), folder / name)
        self.sockets: list[socket.socket] = []
        self.waiting = socket.socket(socket.AF_UNIX)
        self.waiting.bind(str(folder / "in.sock"))
        self.waiting.listen(8)
        self.waiting.settimeout(20)
        self.far = DestinationRelay(folder / "in.sock")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        self.listener = DataListener(["127.0.0.1"], port, LiveContext(folder / "h2", server_context))
        self.listener.expect(
            "m",
            Expected(TICKET, "h1", encrypt, lambda hello, stream: self.far.accept(hello.number, hello.attempt, stream)),
        )
        self.listener.start()
        routes = tuple(
            Route(nic=nic, source_address="127.0.0.1", destination_address="127.0.0.1", port=port)
            for nic in ("mig0", "mig0", "mig1")
        )
        self.path = folder / "out.sock"
        self.relay = RelayProcess(
            RelayOrder(
                path=self.path, routes=routes, move_id="m", ticket=TICKET.hex(), pki=folder / "h1" if encrypt else None,
                server_name=Identity(Role.AGENT, "h2").dns_name, give_up=2.0,
            )
        )  # fmt: skip
        self.relay.wait_ready()

    def connect(self, first: bytes) -> socket.socket:
        """One of the source QEMU's connections."""
        channel = socket.socket(socket.AF_UNIX)
        self.sockets.append(channel)
        channel.settimeout(20)
        channel.connect(str(self.path))
        channel.sendall(first)
        return channel

    def accept(self) -> tuple[socket.socket, bytes]:
        """One that arrives at the destination's QEMU, and its first bytes."""
        channel, _ = self.waiting.accept()
        self.sockets.append(channel)
        channel.settimeout(20)
        return channel, receive(channel, 4)

    def open_all(self) -> tuple[list[socket.socket], list[socket.socket]]:
        near = [self.connect(MULTIFD_MAGIC), self.connect(MULTIFD_MAGIC), self.connect(MAIN_MAGIC)]
        arrived = [self.accept() for _ in near]
        assert [first for _, first in arrived] == [MAIN_MAGIC, MULTIFD_MAGIC, MULTIFD_MAGIC], "main comes first"
        return near, [channel for channel, _ in arrived]

    def close(self) -> None:
        self.relay.close()
        self.far.close()
        self.listener.close()
        for used in (*self.sockets, self.waiting):
            used.close()
        self.relay.join()


@pytest.fixture
def relayed(tmp_path: Path) -> Iterator[Relayed]:
    made = Relayed(tmp_path)
    yield made
    made.close()


def test_the_main_channel_arrives_first_and_bytes_go_both_ways(relayed: Relayed) -> None:
    near, far = relayed.open_all()
    content = bytes(range(256)) * 4096
    threading.Thread(target=near[2].sendall, args=(content,)).start()
    assert receive(far[0], len(content)) == content
    far[0].sendall(b"back")
    assert receive(near[2], 4) == b"back"
    for channel in near:
        channel.close()
    assert all(channel.recv(1) == b"" for channel in far), "an end is passed on"


def test_a_broken_network_does_not_break_qemus_channels(relayed: Relayed) -> None:
    near, far = relayed.open_all()
    for channel in far:
        channel.close()
    while not relayed.relay.why():
        time.sleep(0.01)
    for channel in near:
        channel.sendall(bytes(4 * 2**20))  # more than any buffer holds: it is read


def test_a_killed_agent_does_not_break_qemus_channels(relayed: Relayed) -> None:
    near, far = relayed.open_all()
    relayed.relay.close()  # what the relay sees when the agent dies: its pipe ends
    assert all(channel.recv(1) == b"" for channel in far), "nothing more is sent"
    for channel in near:
        channel.sendall(bytes(4 * 2**20))
    late = relayed.connect(MULTIFD_MAGIC)
    late.sendall(bytes(4 * 2**20))
