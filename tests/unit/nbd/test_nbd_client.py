"""The client on a real Unix socket, against our own server: it takes writes, and knows neither reads nor contexts."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmove.nbd.client import NbdClient, NbdError
from kvmove.nbd.handshake import Handshake, HandshakeState
from kvmove.nbd.protocol import Export
from kvmove.nbd.server import NbdServer
from tests.support.nbd_recorder import Recorder

MIB = 1024 * 1024
SIZE = 64 * MIB


def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.001)  # bounded by the test's time limit


@pytest.fixture
def handler() -> Recorder:
    return Recorder()


@pytest.fixture
def server(tmp_path: Path, handler: Recorder) -> Iterator[NbdServer]:
    server = NbdServer(tmp_path / "d0.sock", "d0", SIZE, handler, offer_flush=True)
    handler.answer = server.reply
    server.start()
    yield server
    server.close()


@pytest.fixture
def client(server: NbdServer, tmp_path: Path) -> Iterator[NbdClient]:
    client = NbdClient(tmp_path / "d0.sock", "d0", timeout=20)
    yield client
    client.close()


def calls(handler: Recorder) -> list[tuple[object, ...]]:
    """Without the cookies."""
    return [call[:1] + call[2:] for call in handler.calls]


def test_requests_arrive_as_they_were_made(client: NbdClient, handler: Recorder) -> None:
    assert client.size == SIZE
    client.write(513, memoryview(b"a" * 700))
    client.write_zeroes(4096, 8192, may_punch=True)
    client.write_zeroes(0, 1, may_punch=False)
    client.flush()
    assert calls(handler) == [("write", 513, b"a" * 700), ("zero", 4096, 8192, True), ("zero", 0, 1, False), ("flush",)]


def test_a_request_that_is_too_long_for_one_is_cut(client: NbdClient, handler: Recorder) -> None:
    data = b"0123456789abcdef" * (33 * MIB // 16)
    client.write(MIB, memoryview(data))
    client.write_zeroes(0, SIZE, may_punch=True)
    assert calls(handler) == [
        ("write", MIB, data[: 32 * MIB]),
        ("write", 33 * MIB, data[32 * MIB :]),
        ("zero", 0, 32 * MIB, True),
        ("zero", 32 * MIB, 32 * MIB, True),
    ]


def test_threads_take_turns_on_the_one_connection_that_there_is(client: NbdClient, handler: Recorder) -> None:
    def write(number: int) -> None:
        for _ in range(50):
            client.write(number * MIB, memoryview(bytes([number]) * 5000))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writes = [("write", number * MIB, bytes([number]) * 5000) for number in range(8)]
    assert sorted(calls(handler), key=str) == sorted(writes * 50, key=str)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NbdError, match="No such file"):
        NbdClient(tmp_path / "d0.sock", "d0")


def test_another_export(server: NbdServer, tmp_path: Path) -> None:
    with pytest.raises(NbdError, match="does not give the export 'd1'"):
        NbdClient(tmp_path / "d0.sock", "d1")


def test_a_context_that_the_server_does_not_know(server: NbdServer, tmp_path: Path) -> None:
    with pytest.raises(NbdError, match="does not know base:allocation"):
        NbdClient(tmp_path / "d0.sock", "d0", contexts=["base:allocation"])


def test_a_server_that_goes_fails_the_request_and_all_that_follow(
    client: NbdClient, server: NbdServer, handler: Recorder, tmp_path: Path
) -> None:
    client.write(0, memoryview(b"lost, if nobody flushes"))
    handler.answer = lambda _: server.abort("the test ended it")
    with pytest.raises(NbdError, match="write 3 bytes at 7: the NBD server closed the connection"):
        client.write(7, memoryview(b"abc"))
    server.close()
    again = NbdServer(tmp_path / "d0.sock", "d0", SIZE, handler, offer_flush=True)
    handler.answer = again.reply
    again.start()
    try:
        with pytest.raises(NbdError, match=r"make it durable: the NBD server of d0 .* was lost"):
            client.flush()
    finally:
        again.close()


def test_a_server_that_says_nothing_fails_the_request(server: NbdServer, handler: Recorder, tmp_path: Path) -> None:
    client = NbdClient(tmp_path / "d0.sock", "d0", timeout=0.1)
    handler.answer = None
    with pytest.raises(NbdError, match=r"did not answer within 0\.1 s"):
        client.write(0, memoryview(b"abc"))
    with pytest.raises(NbdError, match="was lost"):
        client.write(0, memoryview(b"abc"))
    client.close()


def test_a_server_that_takes_nothing_fails_the_request(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "d0.sock"))
        listener.listen()
        failed = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                handshake = Handshake(Export("d0", SIZE))
                connection.sendall(handshake.greeting())
                while handshake.state is not HandshakeState.READY:
                    connection.sendall(handshake.receive(connection.recv(100)))
                failed.wait(20)

        thread = threading.Thread(target=serve)
        thread.start()
        client = NbdClient(tmp_path / "d0.sock", "d0", timeout=0.1)
        with pytest.raises(NbdError, match=r"did not answer within 0\.1 s"):
            client.write(0, memoryview(bytes(8 * MIB)))
        client.close()
        failed.set()
        thread.join()


def test_closing_fails_what_is_under_way(client: NbdClient, server: NbdServer, handler: Recorder) -> None:
    handler.answer = None
    failures: list[NbdError] = []

    def write() -> None:
        try:
            client.write(0, memoryview(b"abc"))
        except NbdError as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    wait_until(server.in_flight)
    client.close()
    client.close()
    thread.join()
    assert len(failures) == 1
    with pytest.raises(NbdError, match="the client was closed"):
        client.write(0, memoryview(b"abc"))


def test_the_client_says_goodbye(client: NbdClient, server: NbdServer, handler: Recorder) -> None:
    client.write(0, memoryview(b"abc"))
    client.close()
    assert handler.ended.wait(10)
    assert handler.reasons == ["QEMU disconnected"]
