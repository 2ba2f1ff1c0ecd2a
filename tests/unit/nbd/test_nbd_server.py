"""The server on a real Unix socket, against a client in literal bytes."""

import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmove.errors import InvalidInput, MoveFailed
from kvmove.nbd.server import NbdServer
from tests.support.nbd_client import DISCONNECT, FLUSH, READ, connect, cookies, receive, request, transmit, write
from tests.support.nbd_recorder import Recorder

SIZE = 64 * 1024 * 1024


def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.001)  # bounded by the test's time limit


@pytest.fixture
def handler() -> Recorder:
    return Recorder()


@pytest.fixture
def server(tmp_path: Path, handler: Recorder) -> Iterator[NbdServer]:
    server = NbdServer(tmp_path / "d0.sock", "d0", SIZE, handler)
    server.start()
    yield server
    server.close()


@pytest.fixture
def client(server: NbdServer, tmp_path: Path) -> Iterator[socket.socket]:
    with transmit(tmp_path / "d0.sock", b"d0") as client:
        yield client


def test_only_root_may_connect(server: NbdServer, tmp_path: Path) -> None:
    mode = (tmp_path / "d0.sock").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_an_answer_inside_the_call_reaches_the_client(
    server: NbdServer, handler: Recorder, client: socket.socket
) -> None:
    handler.answer = server.reply
    client.sendall(write(1, 513, b"a" * 700) + write(2, 0, b"b" * 4096) + request(FLUSH, 3))
    assert cookies(client, 3) == [1, 2, 3]
    assert handler.calls == [("write", 1, 513, b"a" * 700), ("write", 2, 0, b"b" * 4096), ("flush", 3)]
    assert server.in_flight() == 0


def test_answers_may_come_later_from_another_thread_and_in_any_order(
    server: NbdServer, handler: Recorder, client: socket.socket
) -> None:
    client.sendall(b"".join(write(cookie, 0, b"x") for cookie in range(16)))
    wait_until(lambda: server.in_flight() == 16)
    assert server.reply(7)
    assert server.reply_many([3, 15, 0]) == 3
    assert cookies(client, 4) == [7, 3, 15, 0]
    assert server.in_flight() == 12


def test_a_request_is_answered_once(server: NbdServer, handler: Recorder, client: socket.socket) -> None:
    client.sendall(write(5, 0, b"x") + write(6, 0, b"x"))
    wait_until(lambda: server.in_flight() == 2)
    assert server.reply(5)
    assert not server.reply(5)
    assert server.reply_many([5, 4711, 6]) == 1
    assert cookies(client, 2) == [5, 6]


def test_the_oldest_arrival_is_that_of_the_oldest_unanswered_request(
    server: NbdServer, handler: Recorder, client: socket.socket
) -> None:
    assert server.oldest_arrival() is None
    before = time.monotonic()
    client.sendall(write(1, 0, b"x"))
    wait_until(lambda: server.in_flight() == 1)
    between = time.monotonic()
    client.sendall(write(2, 0, b"x"))
    wait_until(lambda: server.in_flight() == 2)
    oldest = server.oldest_arrival()
    assert oldest is not None and before <= oldest <= between
    server.reply(1)
    oldest = server.oldest_arrival()
    assert oldest is not None and oldest >= between


@pytest.mark.parametrize("length", [1, 4096, 32 * 1024, 200_000, 5_000_000])
def test_a_payload_in_two_halves_is_put_together(
    server: NbdServer, handler: Recorder, client: socket.socket, length: int
) -> None:
    handler.answer = server.reply
    payload = os.urandom(length)
    sent = write(1, 9, payload) + write(2, 1, b"next")
    client.sendall(sent[: length // 2])
    time.sleep(0.02)
    client.sendall(sent[length // 2 :])
    assert cookies(client, 2) == [1, 2]
    assert handler.calls == [("write", 1, 9, payload), ("write", 2, 1, b"next")]


def test_a_signal_in_the_middle_of_a_payload_loses_nothing(
    server: NbdServer, handler: Recorder, client: socket.socket
) -> None:
    """The kernel may interrupt any thread for a signal to the process, and then receives short."""
    handler.answer = server.reply
    payload = os.urandom(300_000)
    sent = write(1, 0, payload)
    reader = next(thread for thread in threading.enumerate() if thread.name == "nbd-d0")
    assert reader.ident is not None
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        for start in range(0, len(sent), 60_000):
            client.sendall(sent[start : start + 60_000])
            time.sleep(0.02)
            if start + 60_000 < len(sent):  # a later one might find the old action back in place
                signal.pthread_kill(reader.ident, signal.SIGUSR1)
        assert cookies(client, 1) == [1]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert handler.calls == [("write", 1, 0, payload)]


def test_abort_cuts_the_client_off_with_all_requests_unanswered(
    server: NbdServer, handler: Recorder, client: socket.socket
) -> None:
    client.sendall(write(1, 0, b"x") + write(2, 0, b"y"))
    wait_until(lambda: server.in_flight() == 2)
    server.abort("over 2 s")
    server.abort("again")
    assert receive(client, 1) == b""
    assert handler.ended.wait(10)
    assert handler.reasons == ["over 2 s"]
    assert not server.reply(1)
    assert server.in_flight() == 0
    assert server.oldest_arrival() is None


def test_close_takes_the_socket_away(
    server: NbdServer, handler: Recorder, client: socket.socket, tmp_path: Path
) -> None:
    server.close()
    assert receive(client, 1) == b""
    assert handler.reasons == ["the server was closed"]
    assert not (tmp_path / "d0.sock").exists()
    server.close()


def test_close_without_any_client_ends_the_thread(server: NbdServer, handler: Recorder) -> None:
    server.close()
    assert handler.reasons == ["the server was closed"]


def test_close_in_the_middle_of_a_handshake_ends_the_thread(
    server: NbdServer, handler: Recorder, tmp_path: Path
) -> None:
    with connect(tmp_path / "d0.sock") as client:
        server.close()
        assert receive(client, 1) == b""
    assert handler.reasons == ["the server was closed"]


def test_close_in_the_middle_of_a_payload_ends_the_thread(
    server: NbdServer, handler: Recorder, client: socket.socket
) -> None:
    client.sendall(write(1, 0, bytes(1_000_000))[:100_000])
    server.close()
    assert handler.calls == []
    assert handler.reasons == ["the server was closed"]


def test_close_inside_a_call_does_not_wait_for_itself(
    server: NbdServer, handler: Recorder, client: socket.socket, tmp_path: Path
) -> None:
    handler.answer = lambda cookie: server.close()
    client.sendall(write(1, 0, b"x"))
    assert receive(client, 1) == b""
    assert handler.ended.wait(10)
    assert not (tmp_path / "d0.sock").exists()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        pytest.param(request(READ, 1, 0, 512), "the NBD client tried to read", id="read"),
        pytest.param(bytes(28), "the NBD client sent something that is no request", id="noise"),
        pytest.param(request(DISCONNECT, 1), "QEMU disconnected", id="goodbye"),
    ],
)
def test_the_end_is_told_with_its_reason(
    server: NbdServer, handler: Recorder, client: socket.socket, sent: bytes, reason: str
) -> None:
    client.sendall(sent)
    assert receive(client, 1) == b""
    assert handler.ended.wait(10)
    assert len(handler.reasons) == 1
    assert handler.reasons[0].startswith(reason)


def test_a_client_that_dies_is_told(server: NbdServer, handler: Recorder, client: socket.socket) -> None:
    client.close()
    assert handler.ended.wait(10)
    assert handler.reasons == ["QEMU closed the connection"]


def test_a_handler_that_fails_ends_the_connection(server: NbdServer, handler: Recorder, client: socket.socket) -> None:
    def fail(cookie: int) -> None:
        raise ValueError("no room")

    handler.answer = fail
    client.sendall(write(1, 0, b"x"))
    assert receive(client, 1) == b""
    assert handler.ended.wait(10)
    assert handler.reasons == ["the handler of d0 failed: ValueError('no room')"]


def test_who_leaves_during_the_handshake_makes_room_for_the_next(
    server: NbdServer, handler: Recorder, tmp_path: Path
) -> None:
    path = tmp_path / "d0.sock"
    connect(path).close()
    with connect(path) as rude:
        rude.sendall(b"garbage that is no option")
        assert receive(rude, 1) == b""
    handler.answer = server.reply
    with transmit(path, b"d0") as client:
        client.sendall(write(1, 0, b"x"))
        assert cookies(client, 1) == [1]


def test_a_second_client_is_refused_during_and_after_the_transmission(
    server: NbdServer, handler: Recorder, client: socket.socket, tmp_path: Path
) -> None:
    handler.answer = server.reply
    client.sendall(write(1, 0, b"x"))
    assert cookies(client, 1) == [1]
    with pytest.raises(ConnectionRefusedError):
        connect(tmp_path / "d0.sock")
    client.close()
    assert handler.ended.wait(10)
    with pytest.raises(ConnectionRefusedError):
        connect(tmp_path / "d0.sock")


def test_a_client_that_takes_no_replies_is_cut_and_nobody_waits_for_it(
    server: NbdServer, handler: Recorder, client: socket.socket
) -> None:
    handler.answer = server.reply
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for cookie in range(100_000):
            client.sendall(request(FLUSH, cookie))
    assert handler.ended.wait(10)
    assert handler.reasons[0].startswith("QEMU does not take replies")


def test_answers_from_many_threads_do_not_mix(server: NbdServer, handler: Recorder, client: socket.socket) -> None:
    count = 4000
    waiting = iter(range(count))
    lock = threading.Lock()

    def answer_all() -> None:
        while True:
            with lock:
                cookie = next(waiting, None)
            if cookie is None:
                return
            while not server.reply(cookie):
                time.sleep(0.0001)  # has not arrived yet

    threads = [threading.Thread(target=answer_all) for _ in range(3)]
    for thread in threads:
        thread.start()
    seen: list[int] = []
    for start in range(0, count, 100):
        client.sendall(b"".join(write(cookie, 0, b"x") for cookie in range(start, start + 100)))
        seen += cookies(client, 100)
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(count))


def test_a_socket_left_over_is_replaced(tmp_path: Path, handler: Recorder) -> None:
    path = tmp_path / "d0.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    server = NbdServer(path, "d0", SIZE, handler)
    server.start()
    transmit(path, b"d0").close()
    server.close()


def test_nothing_but_a_socket_is_replaced(tmp_path: Path, handler: Recorder) -> None:
    path = tmp_path / "d0.sock"
    path.write_text("precious")
    with pytest.raises(InvalidInput):
        NbdServer(path, "d0", SIZE, handler).start()
    assert path.read_text() == "precious"


def test_a_path_too_long_for_a_socket_is_refused_in_plain_words(tmp_path: Path, handler: Recorder) -> None:
    with pytest.raises(InvalidInput, match="too long"):
        NbdServer(tmp_path / ("x" * 100), "d0", SIZE, handler).start()


def test_a_missing_folder_is_told(tmp_path: Path, handler: Recorder) -> None:
    server = NbdServer(tmp_path / "none" / "d0.sock", "d0", SIZE, handler)
    with pytest.raises(MoveFailed, match="No such file"):
        server.start()
    server.close()
