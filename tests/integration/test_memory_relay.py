"""The memory relay's process between two sockets that stand in for the QEMUs."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from kvmove.memory.channel_relay import MAIN_MAGIC, DestinationRelay
from kvmove.memory.relay_process import RelayOrder, RelayProcess
from kvmove.model.move import Route
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.contexts import LiveContext, client_context, server_context
from kvmove.pki.identity import Identity, Role
from kvmove.transport.dial import Dialer
from kvmove.transport.listener import DataListener, Expected
from kvmove.transport.stream import Stream, StreamRefused
from kvmove.wire.handshake import Hello, StreamRole

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
        self.streams: list[Stream] = []
        self.deaf: set[str] = set()
        self.never = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = self.port = int(probe.getsockname()[1])
        self.listener = DataListener(["127.0.0.1", "127.0.0.2"], port, LiveContext(folder / "h2", server_context))
        self.listener.expect("m", Expected(TICKET, "h1", encrypt, self._accept))
        self.listener.start()
        routes = tuple(
            Route(nic=nic, source_address=address, destination_address=address, port=port)
            for nic, address in (("mig0", "127.0.0.1"), ("mig0", "127.0.0.1"), ("mig1", "127.0.0.2"))
        )
        self.path = folder / "out.sock"
        self.relay = RelayProcess(
            RelayOrder(
                path=self.path, routes=routes, move_id="m", ticket=TICKET.hex(), pki=folder / "h1" if encrypt else None,
                server_name=Identity(Role.AGENT, "h2").dns_name, give_up=2.0,
            )
        )  # fmt: skip
        self.relay.wait_ready()

    def _accept(self, hello: Hello, stream: Stream) -> Callable[[], None]:
        run = self.far.accept(hello.number, hello.attempt, stream)
        self.streams.append(stream)
        return partial(self._hear_nothing, stream) if hello.nic in self.deaf else run

    def _hear_nothing(self, stream: Stream) -> None:
        """In place of a connection's life, as over a wire that died after it was opened."""
        self.never.wait()
        stream.close()

    def cut(self) -> None:
        """All connections that are open."""
        for stream in self.streams:
            stream.shutdown()

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
        self.never.set()
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


def exchange(near: socket.socket, far: socket.socket, size: int, between: Callable[[], None]) -> bool:
    """Whether all of `size` random bytes arrives as it was sent, and an answer does, with `between` done on the way."""
    content = random.Random(size).randbytes(size)
    sender = threading.Thread(target=near.sendall, args=(content,))
    sender.start()
    half = receive(far, size // 2)
    between()
    far.sendall(content[:1000])
    whole = half + receive(far, size - size // 2) == content
    sender.join()
    return whole and receive(near, 1000) == content[:1000]


def pairs(relayed: Relayed) -> list[tuple[socket.socket, socket.socket]]:
    """QEMU's connections at the source, each with the one that it arrives at."""
    near, far = relayed.open_all()
    for number, channel in enumerate(near):
        channel.sendall(bytes([number]))
    numbers = [receive(channel, 1)[0] for channel in far]
    return [(near[number], channel) for number, channel in zip(numbers, far, strict=True)]


def test_a_channel_goes_on_over_another_connection_wherever_its_own_is_cut(relayed: Relayed) -> None:
    channels = pairs(relayed)
    for size in (3_000_001, 9_000_000):  # less and more than what is on its way at once
        for near, far in channels:
            assert exchange(near, far, size, relayed.cut)
    for near, _ in channels:
        near.sendall(b"last")
        near.close()
    relayed.cut()
    for _, far in channels:
        assert receive(far, 5) == b"last", "an end is passed on after all that came before it, and nothing follows"
    assert not relayed.relay.why()
    while relayed.relay.resumed() < len(channels):  # its news come a moment later
        time.sleep(0.01)


def test_a_channel_of_which_nothing_is_heard_goes_on_over_another_nic(relayed: Relayed) -> None:
    relayed.deaf.add("mig0")
    near = relayed.connect(MAIN_MAGIC)
    far, first = relayed.accept()
    assert first == MAIN_MAGIC
    assert exchange(near, far, 100_000, lambda: None)
    while relayed.relay.sent().get("mig1", 0) < 100_000:  # its news come a moment later
        time.sleep(0.01)
    assert relayed.relay.sent()["mig0"] < 10_000, "nothing is sent before the peer has said from where"


def test_a_stranger_cannot_resume_a_channel_nor_an_earlier_attempt(relayed: Relayed, tmp_path: Path) -> None:
    (near, far), *_ = pairs(relayed)
    route = Route(nic="mig0", source_address="127.0.0.1", destination_address="127.0.0.1", port=relayed.port)
    name = Identity(Role.AGENT, "h2").dns_name
    stranger = Dialer("m", bytes(31) + b"x", partial(client_context, tmp_path / "h1"), name)
    with pytest.raises(StreamRefused, match="proof"):
        stranger.open(route, StreamRole.MEMORY, 0, 99)
    late = Dialer("m", TICKET, partial(client_context, tmp_path / "h1"), name)
    with pytest.raises(StreamRefused, match="attempt 1 of memory channel 0 came after 1"):
        late.open(route, StreamRole.MEMORY, 0, 1)
    assert exchange(near, far, 1_000_000, lambda: None)
    assert relayed.relay.resumed() == 0, "neither has touched the channel"


def test_a_later_connection_closes_the_one_before(relayed: Relayed, tmp_path: Path) -> None:
    pairs(relayed)
    before = relayed.streams[0]
    route = Route(nic="mig0", source_address="127.0.0.1", destination_address="127.0.0.1", port=relayed.port)
    dialer = Dialer("m", TICKET, partial(client_context, tmp_path / "h1"), Identity(Role.AGENT, "h2").dns_name)
    later = dialer.open(route, StreamRole.MEMORY, 0, 99)
    assert before.sock.fileno() == -1, "it was closed before the later one was welcomed"
    later.close()
    while not relayed.relay.why():  # attempts after 1 come too late now
        time.sleep(0.01)


def test_a_channel_for_which_no_route_answers_is_given_up_and_qemu_does_not_see_it(relayed: Relayed) -> None:
    (near, _), *_ = pairs(relayed)
    relayed.listener.close()
    relayed.cut()
    while "no route answered for 2 s" not in relayed.relay.why():
        time.sleep(0.01)
    near.sendall(bytes(32 * 2**20))  # more than any buffer holds: it is read


def test_a_qemu_that_ends_at_the_destination_ends_the_channels_but_not_at_the_source(relayed: Relayed) -> None:
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
