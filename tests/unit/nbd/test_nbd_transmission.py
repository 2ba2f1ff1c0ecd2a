"""How bytes become requests, in literal bytes; and what noise may not do."""

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.nbd.protocol import ProtocolError
from kvmove.nbd.transmission import DIRECT_PAYLOAD, MAX_IN_FLIGHT, RECEIVE_BUFFER, Requests, encode_reply
from tests.support.nbd_client import DISCONNECT, FLUSH, READ, TRIM, WRITE, WRITE_ZEROES, request, write
from tests.support.nbd_recorder import Recorder

MIB = 1024 * 1024
SIZE = 64 * MIB


def feed(requests: Requests, data: bytes, now: float = 0.0) -> None:
    """Give all of `data` as the server would."""
    while data and not requests.ended:
        if missing := requests.missing():
            if len(data) < missing:
                return  # the server would wait for the rest
            requests.finish(data[:missing], now)
            data = data[missing:]
            continue
        room = requests.room()
        taken = min(len(room), len(data))
        assert taken
        room[:taken] = data[:taken]
        data = data[taken:]
        requests.received(taken, now)


def calls_for(data: bytes) -> list[tuple[object, ...]]:
    handler = Recorder()
    feed(Requests(SIZE, handler), data)
    return handler.calls


def test_a_write_of_any_length_at_any_offset_arrives_as_it_is() -> None:
    assert calls_for(write(7, 513, b"x" * 700)) == [("write", 7, 513, b"x" * 700)]


def test_each_command_reaches_its_own_call() -> None:
    data = (
        request(WRITE_ZEROES, 1, 10, 5000, flags=2)
        + request(WRITE_ZEROES, 2, 20, SIZE - 20)
        + request(TRIM, 3, 30, 1)
        + request(FLUSH, 4)
        + write(2**64 - 1, SIZE - 1, b"z")
    )
    assert calls_for(data) == [
        ("zero", 1, 10, 5000, False),
        ("zero", 2, 20, SIZE - 20, True),
        ("trim", 3, 30, 1),
        ("flush", 4),
        ("write", 2**64 - 1, SIZE - 1, b"z"),
    ]


def test_nothing_is_read_after_the_goodbye() -> None:
    handler = Recorder()
    requests = Requests(SIZE, handler)
    feed(requests, request(DISCONNECT, 1) + write(2, 0, b"late"))
    assert requests.ended
    assert handler.calls == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x25\x60\x95\x14" + bytes(24), id="wrong-magic"),
        pytest.param(request(READ, 1, 0, 512), id="read"),
        pytest.param(request(5, 1, 0, 512), id="cache"),
        pytest.param(request(7, 1, 0, 512), id="block-status"),
        pytest.param(request(WRITE, 1, 0, 0), id="empty-write"),
        pytest.param(request(TRIM, 1, 0, 0), id="empty-trim"),
        pytest.param(request(WRITE, 1, SIZE - 1, 2), id="over-the-end"),
        pytest.param(request(WRITE, 1, 2**64 - 1, 2), id="wraps-around"),
        pytest.param(request(WRITE_ZEROES, 1, 1, SIZE), id="zero-over-the-end"),
        pytest.param(request(WRITE, 1, 0, 32 * MIB + 1), id="longer-than-offered"),
        pytest.param(write(1, 0, b"a") + write(1, 9, b"b"), id="cookie-in-flight"),
    ],
)
def test_what_no_writer_sends_ends_the_connection(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        calls_for(data)


def test_a_cookie_may_be_used_again_once_answered() -> None:
    handler = Recorder()
    requests = Requests(SIZE, handler)
    feed(requests, write(1, 0, b"a"), now=5.0)
    assert requests.arrivals == {1: 5.0}
    del requests.arrivals[1]
    feed(requests, write(1, 0, b"b"), now=6.0)
    assert requests.arrivals == {1: 6.0}


def test_requests_in_flight_are_bounded() -> None:
    requests = Requests(SIZE, Recorder())
    feed(requests, b"".join(request(FLUSH, cookie) for cookie in range(MAX_IN_FLIGHT)))
    with pytest.raises(ProtocolError):
        feed(requests, request(FLUSH, MAX_IN_FLIGHT))


def test_an_announced_payload_takes_no_memory_before_it_comes() -> None:
    requests = Requests(SIZE, Recorder())
    tracemalloc.start()
    feed(requests, request(WRITE, 1, 0, 32 * MIB))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 1024
    assert requests.missing() == 32 * MIB


def test_the_longest_write_is_taken() -> None:
    payload = bytes(range(256)) * (MIB // 8)
    assert calls_for(write(1, 4096, payload) + request(FLUSH, 2)) == [("write", 1, 4096, payload), ("flush", 2)]


def test_a_reply_is_sixteen_bytes() -> None:
    assert encode_reply(0x0102030405060708) == b"\x67\x44\x66\x98\x00\x00\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08"


lengths = st.integers(1, 600) | st.sampled_from(
    [
        4096,
        DIRECT_PAYLOAD - 1,
        DIRECT_PAYLOAD,
        DIRECT_PAYLOAD + 1,
        RECEIVE_BUFFER - 28,
        RECEIVE_BUFFER,
        RECEIVE_BUFFER + 1,
    ]
)


@given(st.data(), st.lists(lengths, min_size=1, max_size=12))
def test_requests_do_not_depend_on_how_the_bytes_are_cut(data: st.DataObject, sizes: list[int]) -> None:
    payloads = [bytes([cookie + 1]) * length for cookie, length in enumerate(sizes)]
    sent = b"".join(write(cookie, cookie * 3, payload) for cookie, payload in enumerate(payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=12)))
    handler = Recorder()
    requests = Requests(SIZE, handler)
    edges = [0, *cuts, len(sent)]
    kept = b""
    for a, b in itertools.pairwise(edges):
        kept += sent[a:b]
        while kept:
            if missing := requests.missing():
                if len(kept) < missing:
                    break
                requests.finish(kept[:missing], 0.0)
                kept = kept[missing:]
            else:
                taken = min(len(requests.room()), len(kept))
                requests.room()[:taken] = kept[:taken]
                kept = kept[taken:]
                requests.received(taken, 0.0)
    assert handler.calls == [("write", cookie, cookie * 3, payload) for cookie, payload in enumerate(payloads)]


@pytest.mark.parametrize("length", [DIRECT_PAYLOAD - 1, DIRECT_PAYLOAD, 2 * DIRECT_PAYLOAD])
@pytest.mark.parametrize("arrived", [1, 27, 28, 29, 30_000])
def test_a_write_that_begins_near_the_end_of_the_buffer_finds_room(length: int, arrived: int) -> None:
    for free in range(0, 80_000, 2500):
        handler = Recorder()
        requests = Requests(SIZE, handler)
        first, second = write(1, 0, b"a" * (RECEIVE_BUFFER - 28 - free)), write(2, 0, b"b" * length)
        together = min(arrived, free)
        requests.room()[: len(first) + together] = first + second[:together]
        requests.received(len(first) + together, 0.0)
        feed(requests, second[together:])
        assert [call[1] for call in handler.calls] == [1, 2]
        assert handler.calls[1] == ("write", 2, 0, b"b" * length)


headers = st.builds(
    request,
    st.integers(0, 8),
    st.integers(0, 5) | st.integers(0, 2**64 - 1),
    st.integers(0, SIZE) | st.integers(0, 2**64 - 1),
    st.integers(0, 100) | st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
)


@given(st.lists(st.binary(max_size=100) | headers, max_size=30).map(b"".join))
def test_noise_raises_nothing_but_protocol_errors_and_stays_inside_the_disk(data: bytes) -> None:
    handler = Recorder()
    requests = Requests(SIZE, handler)
    try:
        feed(requests, data)
    except ProtocolError:
        assert len(requests.arrivals) >= len(handler.calls)
    for call in handler.calls:
        if call[0] == "write":
            _, _, offset, payload = call
            assert isinstance(offset, int) and isinstance(payload, bytes) and offset + len(payload) <= SIZE
