"""An exception that nobody foresaw, in whichever thread of a memory channel, gives the channel up and says why."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmove.memory.channel_relay import MAIN_MAGIC, SourceRelay
from kvmove.memory.channel_session import ChannelSession
from kvmove.memory.destination_channel import DestinationChannel
from kvmove.memory.source_channel import ChannelTerms, SourceChannel
from kvmove.model.move import Route
from kvmove.transport.bandwidth import Bandwidth
from kvmove.transport.stream import Stream
from tests.support.eventually import eventually

ROUTE = Route(nic="mig0", source_address="127.0.0.1", destination_address="127.0.0.1", port=1)
GIVE_UP = 600.0


def planted(*_: object, **__: object) -> None:
    raise RuntimeError("planted")


def broken_dial(route: Route, channel: int, attempt: int) -> Stream:
    raise RuntimeError("planted")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A QEMU's end of a channel, and ours."""
    qemu, ours = socket.socketpair()
    with qemu, ours:
        yield qemu, ours


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A data connection."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            yield near, far


def carried(channel: SourceChannel, qemu: socket.socket) -> str:
    """Why the channel was given up; its QEMU may still send, and closes it in the end."""
    thread = threading.Thread(target=channel.run, daemon=True)
    thread.start()
    qemu.settimeout(10)
    qemu.sendall(bytes(4 * 1024 * 1024))
    qemu.close()
    thread.join(10)
    assert not thread.is_alive()
    return channel.lost


def test_in_a_dial(pair: tuple[socket.socket, socket.socket]) -> None:
    qemu, ours = pair
    terms = ChannelTerms([ROUTE], broken_dial, dict, Bandwidth(), GIVE_UP)
    assert "planted" in carried(SourceChannel(0, ours, ROUTE, terms), qemu)


def test_in_the_sources_thread(
    pair: tuple[socket.socket, socket.socket],
    wire: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ChannelSession, "step", planted)
    qemu, ours = pair
    terms = ChannelTerms([ROUTE], lambda *_: Stream(wire[0], "mig0"), dict, Bandwidth(), GIVE_UP)
    assert "planted" in carried(SourceChannel(0, ours, ROUTE, terms), qemu)


def test_in_the_destinations_thread(
    pair: tuple[socket.socket, socket.socket],
    wire: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ChannelSession, "step", planted)
    qemu, ours = pair
    channel = DestinationChannel(0, ours)
    channel.take(1, Stream(wire[1], "mig0"))()
    assert "planted" in channel.lost
    assert qemu.recv(1) == b"", "its QEMU waits for more"
    wire[0].settimeout(10)
    while wire[0].recv(4096):
        pass  # the source sees that the connection ended


def break_down(local: socket.socket) -> None:
    local.close()
    planted()


async def test_in_the_thread_that_takes_qemus_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = SourceRelay(tmp_path / "out.sock", [ROUTE], broken_dial, GIVE_UP)
    monkeypatch.setattr(relay, "_open", break_down)
    relay.start()
    with socket.socket(socket.AF_UNIX) as qemu:
        qemu.connect(str(tmp_path / "out.sock"))
        qemu.sendall(MAIN_MAGIC)
        await eventually(lambda: "planted" in relay.why())
    relay.close()
