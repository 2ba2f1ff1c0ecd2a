"""What a server may answer, in literal bytes: every way to cut a read into chunks gives the same bytes."""

import struct
from collections.abc import Callable
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.nbd.protocol import ProtocolError
from kvmove.nbd.replies import Refused, StatusRun, take_data, take_done, take_plain_data, take_status

COOKIE = 7
START = 1 << 40
SPACES = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def chunk(kind: int, payload: bytes = b"", *, last: bool = False, cookie: int = COOKIE) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, last, kind, cookie, len(payload)) + payload


def simple(error: int = 0, cookie: int = COOKIE) -> bytes:
    return struct.pack(">IIQ", 0x67446698, error, cookie)


def data(offset: int, content: bytes, *, last: bool = False) -> bytes:
    return chunk(1, struct.pack(">Q", offset) + content, last=last)


def hole(offset: int, length: int, *, last: bool = False) -> bytes:
    return chunk(2, struct.pack(">QI", offset, length), last=last)


def error(number: int, message: str = "", *, last: bool = False) -> bytes:
    return chunk(0x8001, struct.pack(">IH", number, len(message)) + message.encode(), last=last)


def filler(sent: bytes) -> tuple[Callable[[memoryview], None], BytesIO]:
    stream = BytesIO(sent)

    def fill(buffer: memoryview) -> None:
        if stream.readinto(buffer) != len(buffer):
            raise EOFError

    return fill, stream


def read(sent: bytes, length: int) -> bytes:
    fill, stream = filler(sent + b"next")
    buffer = bytearray(b"\xee" * length)
    take_data(fill, COOKIE, memoryview(buffer), START)
    assert stream.read() == b"next", "exactly the reply was read"
    return bytes(buffer)


@given(SPACES, st.data())
def test_a_read_is_the_same_however_it_is_cut(lengths: list[int], draw: st.DataObject) -> None:
    expected, parts, at = b"", [], START
    for length in lengths:
        if draw.draw(st.booleans()):
            parts.append(hole(at, length))
            expected += bytes(length)
        else:
            content = draw.draw(st.binary(min_size=length, max_size=length))
            parts.append(data(at, content))
            expected += content
        at += length
    parts = draw.draw(st.permutations(parts))
    assert read(b"".join(parts) + chunk(0, last=True), len(expected)) == expected


def test_the_last_chunk_may_bring_data() -> None:
    assert read(data(START, b"ab") + hole(START + 2, 2, last=True), 4) == b"ab\0\0"


@pytest.mark.parametrize(
    "sent",
    [
        data(START, b"abc", last=True),  # one byte is missing
        chunk(0, last=True),
        data(START - 1, b"abcd", last=True),
        data(START + 1, b"abcd", last=True),
        hole(START, 5, last=True),
        chunk(1, b"short", last=True),
        chunk(2, b"odd", last=True),
        chunk(77, b"", last=True),
        chunk(0, b"x", last=True),
        chunk(0, last=True, cookie=8),
        b"\0" * 20,
        struct.pack(">IHHQI", 0x668E33EF, 1, 1, COOKIE, 1 << 31),
    ],
)
def test_a_read_that_is_not_wholly_answered_is_an_error(sent: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(sent, 4)


def test_an_error_of_a_read_leaves_the_connection_between_two_replies() -> None:
    fill, stream = filler(data(START, b"ab") + error(5, "bad sector") + error(28) + chunk(0, last=True) + b"next")
    with pytest.raises(Refused, match="bad sector") as caught:
        take_data(fill, COOKIE, memoryview(bytearray(4)), START)
    assert (caught.value.number, stream.read()) == (5, b"next")


def test_a_simple_read() -> None:
    fill, _ = filler(simple() + b"abcd")
    buffer = bytearray(4)
    take_plain_data(fill, COOKIE, memoryview(buffer))
    assert buffer == b"abcd"


@pytest.mark.parametrize("sent", [simple(), chunk(0, last=True)])
def test_done_is_told_in_two_ways(sent: bytes) -> None:
    fill, stream = filler(sent + b"next")
    take_done(fill, COOKIE)
    assert stream.read() == b"next"


@pytest.mark.parametrize("sent", [simple(28), error(28, last=True)])
def test_no_space_is_told_in_two_ways(sent: bytes) -> None:
    fill, stream = filler(sent + b"next")
    with pytest.raises(Refused, match="No space left") as caught:
        take_done(fill, COOKIE)
    assert (caught.value.number, stream.read()) == (28, b"next")


@pytest.mark.parametrize("sent", [simple(cookie=8), chunk(0), data(START, b"ab", last=True), bytes(20)])
def test_what_does_not_say_done_is_an_error(sent: bytes) -> None:
    fill, _ = filler(sent)
    with pytest.raises(ProtocolError):
        take_done(fill, COOKIE)


@given(st.dictionaries(st.integers(0, 9), st.lists(st.tuples(st.integers(1, 2**32 - 1), st.integers(0, 3)))))
def test_block_status_of_several_contexts(contexts: dict[int, list[tuple[int, int]]]) -> None:
    parts = [
        chunk(5, struct.pack(">I", number) + b"".join(struct.pack(">II", *run) for run in runs))
        for number, runs in contexts.items()
    ]
    fill, stream = filler(b"".join(parts) + chunk(0, last=True) + b"next")
    assert take_status(fill, COOKIE) == {k: [StatusRun(*run) for run in runs] for k, runs in contexts.items()}
    assert stream.read() == b"next"


@pytest.mark.parametrize(
    "sent",
    [
        chunk(5, struct.pack(">III", 1, 0, 0), last=True),  # of no bytes: asking on would never end
        chunk(5, b"odd", last=True),
        data(START, b"ab", last=True),
    ],
)
def test_a_broken_block_status_is_an_error(sent: bytes) -> None:
    fill, _ = filler(sent)
    with pytest.raises(ProtocolError):
        take_status(fill, COOKIE)


def test_an_error_of_a_block_status() -> None:
    fill, _ = filler(error(5, last=True))
    with pytest.raises(Refused, match="Input/output error"):
        take_status(fill, COOKIE)
