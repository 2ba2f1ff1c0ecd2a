"""The server's negotiation, in literal bytes."""

import itertools
import struct
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvmove.nbd.handshake import Handshake, HandshakeState
from kvmove.nbd.protocol import Export, ProtocolError
from tests.support.nbd_client import info_request, option

MIB = 1024 * 1024
FLAGS = b"\x00\x00\x00\x03"
EXPORT = Export("d0", 8 * MIB)


def reply(number: int, kind: int, data: bytes = b"") -> bytes:
    return b"\x00\x03\xe8\x89\x04\x55\x65\xa9" + struct.pack(">III", number, kind, len(data)) + data


def offer(number: int, flags: int = 0x69) -> bytes:
    export = struct.pack(">HQH", 0, 8 * MIB, flags)
    blocks = struct.pack(">HIII", 3, 1, 4096, 32 * MIB)
    return reply(number, 3, export) + reply(number, 3, blocks) + reply(number, 1)


def negotiated(export: Export = EXPORT) -> Handshake:
    handshake = Handshake(export)
    assert handshake.receive(FLAGS) == b""
    return handshake


def test_the_greeting_is_fixed_newstyle_without_zeroes() -> None:
    assert Handshake(EXPORT).greeting() == b"NBDMAGICIHAVEOPT\x00\x03"


def test_go_offers_size_flags_and_blocks_of_one_byte() -> None:
    handshake = negotiated()
    assert handshake.receive(option(7, info_request(b"d0", 3))) == offer(7)
    assert handshake.state is HandshakeState.READY


def test_flush_is_offered_only_when_asked_for() -> None:
    assert negotiated(Export("d0", 8 * MIB, offer_flush=True)).receive(option(7, info_request(b"d0"))) == offer(7, 0x6D)


def test_info_tells_the_same_and_goes_on_negotiating() -> None:
    handshake = negotiated()
    assert handshake.receive(option(6, info_request(b"d0", 0, 3))) == offer(6)
    assert handshake.state is HandshakeState.OPTIONS


@pytest.mark.parametrize("number", [6, 7])
def test_another_export_is_unknown_and_the_client_may_ask_again(number: int) -> None:
    handshake = negotiated()
    assert handshake.receive(option(number, info_request(b"d1"))) == reply(number, 2**31 + 6)
    assert handshake.receive(option(7, info_request(b"d0"))) == offer(7)


@pytest.mark.parametrize("number", [5, 8, 9, 10, 11, 4711])
def test_what_is_not_supported_is_said_to_be_so(number: int) -> None:
    handshake = negotiated()
    assert handshake.receive(option(number, b"data")) == reply(number, 2**31 + 1)
    assert handshake.state is HandshakeState.OPTIONS


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x00\x00\x00\x02d0", id="no-count"),
        pytest.param(b"\xff\xff\xff\xffd0\x00\x00", id="name-longer-than-the-data"),
        pytest.param(b"\x00\x00\x00\x02d0\x00\x02\x00\x03", id="fewer-infos-than-counted"),
        pytest.param(b"\x00\x00\x00\x02d0\x00\x00\x00\x03", id="more-infos-than-counted"),
    ],
)
def test_a_malformed_go_is_invalid_and_nothing_else(data: bytes) -> None:
    handshake = negotiated()
    assert handshake.receive(option(7, data)) == reply(7, 2**31 + 3)
    assert handshake.state is HandshakeState.OPTIONS


def test_list_names_the_export() -> None:
    assert negotiated().receive(option(3)) == reply(3, 2, b"\x00\x00\x00\x02d0") + reply(3, 1)
    assert negotiated().receive(option(3, b"x")) == reply(3, 2**31 + 3)


def test_abort_is_acknowledged_and_ends() -> None:
    handshake = negotiated()
    assert handshake.receive(option(2)) == reply(2, 1)
    assert handshake.state is HandshakeState.ENDED
    assert handshake.receive(option(7, info_request(b"d0"))) == b""


def test_the_old_way_in_gives_zeroes_only_to_those_who_want_them() -> None:
    assert negotiated().receive(option(1, b"d0")) == struct.pack(">QH", 8 * MIB, 0x69)
    handshake = Handshake(EXPORT)
    assert handshake.receive(b"\x00\x00\x00\x01" + option(1, b"d0")) == struct.pack(">QH", 8 * MIB, 0x69) + bytes(124)
    assert handshake.state is HandshakeState.READY


def test_the_old_way_in_with_a_wrong_name_ends_the_connection() -> None:
    with pytest.raises(ProtocolError):
        negotiated().receive(option(1, b"d1"))


@pytest.mark.parametrize("flags", [b"\x00\x00\x00\x00", b"\x00\x00\x00\x02", b"\x00\x00\x00\x07", b"\xff\xff\xff\xff"])
def test_unknown_client_flags_end_the_connection(flags: bytes) -> None:
    with pytest.raises(ProtocolError):
        Handshake(EXPORT).receive(flags)


def test_a_long_option_is_refused_before_its_data_came() -> None:
    with pytest.raises(ProtocolError):
        negotiated().receive(b"IHAVEOPT" + struct.pack(">II", 7, 8193))


def test_endless_haggling_is_cut_off() -> None:
    handshake = negotiated()
    assert len(handshake.receive(option(99) * 32)) == 32 * 20
    with pytest.raises(ProtocolError):
        handshake.receive(option(99))


def test_what_follows_the_last_option_is_handed_on() -> None:
    handshake = negotiated()
    handshake.receive(option(7, info_request(b"d0")) + b"first")
    handshake.receive(b" request")
    assert handshake.rest == b"first request"


CONVERSATION = (
    FLAGS + option(8) + option(7, info_request(b"d1")) + option(3) + option(7, info_request(b"d0", 3)) + b"tail"
)


@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=20))
def test_the_answers_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int]) -> None:
    whole, pieces = Handshake(EXPORT), Handshake(EXPORT)
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    answer = b"".join(pieces.receive(CONVERSATION[a:b]) for a, b in itertools.pairwise(edges))
    assert answer == whole.receive(CONVERSATION)
    assert (pieces.state, pieces.rest) == (HandshakeState.READY, b"tail") == (whole.state, whole.rest)


options = st.builds(option, st.integers(0, 12), st.binary(max_size=40) | st.just(info_request(b"d0")))
noise = st.lists(st.binary(max_size=60) | options, max_size=40).map(b"".join)


@given(noise.map(lambda data: FLAGS + data) | noise)
@example(FLAGS + b"IHAVEOPT" + b"\xff" * 8)
def test_noise_raises_nothing_but_protocol_errors(data: bytes) -> None:
    handshake = Handshake(EXPORT)
    try:
        answer = handshake.receive(data)
    except ProtocolError:
        return
    assert len(answer) < 200 * 33 + len(data)


def test_a_drip_of_announced_data_is_held_only_up_to_the_bound() -> None:
    handshake = negotiated()
    handshake.receive(b"IHAVEOPT" + struct.pack(">II", 7, 8192))
    tracemalloc.start()
    for _ in range(8191):
        handshake.receive(b"x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 1024
    with pytest.raises(ProtocolError):  # the next thing after one whole option is garbage, not more of it
        handshake.receive(b"x" + b"y" * 16)
