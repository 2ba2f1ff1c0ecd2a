"""Connections that end while the destination takes them."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable

import pytest

from kvmove.transport.dial import CONNECT_TIMEOUT, read_message
from kvmove.transport.listener import DataListener, Expected
from kvmove.transport.stream import Stream
from kvmove.wire import handshake
from kvmove.wire.handshake import Challenge, Hello, StreamRole
from tests.support.eventually import eventually

TICKET = bytes(32)


def listening() -> tuple[DataListener, int]:
    """One that is to be started, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    return DataListener(["127.0.0.1"], port, lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)), port


async def test_a_peer_that_leaves_before_it_is_welcomed_leaves_nobody_waiting() -> None:
    """Whoever took the stream over waits for its life to end, in `DiskReceiver.stop`."""
    left, ended = threading.Event(), threading.Event()

    def accept(hello: Hello, stream: Stream) -> Callable[[], None]:
        left.wait(10)
        stream.shutdown()  # as when the peer's end of it is reset

        def live() -> None:
            stream.close()
            ended.set()

        return live

    listener, port = listening()
    listener.expect("m", Expected(TICKET, "h1", False, accept))
    listener.start()
    try:
        stream = Stream(socket.create_connection(("127.0.0.1", port)))
        hello = Hello(move="m", role=StreamRole.DISK, number=0, nic="mig0", attempt=0)
        stream.send_all(handshake.PREAMBLE + handshake.encode(hello), CONNECT_TIMEOUT)
        challenge = read_message(stream)
        assert isinstance(challenge, Challenge)
        proof = handshake.proof(TICKET, challenge.nonce, hello, encrypted=False)
        stream.send_all(handshake.encode(proof), CONNECT_TIMEOUT)
        stream.close()
        left.set()
        await eventually(ended.is_set)
    finally:
        listener.close()


def test_a_machine_without_threads_costs_a_connection_and_not_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    listener, port = listening()
    listener.start()
    try:
        with monkeypatch.context() as planted:
            planted.setattr(threading.Thread, "start", no_more_threads)
            assert answer(port) == b""
        assert answer(port)[4:].startswith(b"{"), "nobody takes connections any more"
    finally:
        listener.close()


def no_more_threads(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def answer(port: int) -> bytes:
    """What is answered to a hello."""
    hello = Hello(move="m", role=StreamRole.DISK, number=0, nic="mig0", attempt=0)
    with socket.create_connection(("127.0.0.1", port), 10) as peer:
        peer.sendall(handshake.PREAMBLE + handshake.encode(hello))
        try:
            return peer.recv(4096)
        except ConnectionResetError:
            return b""
