"""Compressed payloads: what is packed is unpacked, and no bytes of a peer do more than raise, in bounded memory."""

import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.units import MIB
from kvmove.wire import compressed, frames
from kvmove.wire.compressed import LENGTH, Packer
from kvmove.wire.frames import FrameError, FrameKind

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DATA = b"some words, " * 1000


def packed(data: bytes) -> bytes:
    return Packer().pack(memoryview(data))


@given(st.lists(st.binary(min_size=1, max_size=5000) | st.just(bytes(70000)), min_size=1, max_size=4))
def test_payloads_are_unpacked_as_they_were_packed(parts: list[bytes]) -> None:
    packer = Packer()
    for data in parts:
        assert compressed.unpack(memoryview(packer.pack(memoryview(data)))) == data


@given(st.binary(max_size=200))
def test_any_bytes_give_data_or_a_frame_error(payload: bytes) -> None:
    try:
        data = compressed.unpack(memoryview(payload))
    except FrameError:
        return
    assert len(data) <= frames.MAX_PAYLOAD


@given(st.integers(0, 300), st.integers(1, 255))
def test_any_flipped_byte_gives_as_much_data_or_a_frame_error(place: int, flip: int) -> None:
    payload = bytearray(packed(DATA))
    payload[place % len(payload)] ^= flip
    try:
        data = compressed.unpack(memoryview(payload))
    except FrameError:
        return
    assert len(data) == len(DATA)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        LENGTH.pack(5),
        LENGTH.pack(0) + packed(DATA)[4:],
        LENGTH.pack(frames.MAX_PAYLOAD + 1) + packed(DATA)[4:],
        LENGTH.pack(len(DATA) + 1) + packed(DATA)[4:],
        LENGTH.pack(len(DATA) - 1) + packed(DATA)[4:],
        packed(DATA)[:-1],
        packed(DATA) + b"x",
        packed(DATA) + packed(DATA)[4:],
    ],
    ids=["empty", "no-data", "none", "too-much", "too-few", "too-many", "cut", "rest", "two"],
)
def test_what_holds_other_than_it_declares_is_refused(payload: bytes) -> None:
    with pytest.raises(FrameError):
        compressed.unpack(memoryview(payload))


@pytest.mark.parametrize("window", [20, 27])
def test_a_bomb_takes_no_more_memory_than_it_declares(window: int) -> None:
    compressor = zstd.ZstdCompressor(options={int(zstd.CompressionParameter.window_log): window})
    bomb = LENGTH.pack(4096) + compressor.compress(bytes(256 * MIB), mode=compressor.FLUSH_FRAME)
    tracemalloc.start()
    with pytest.raises(FrameError):
        compressed.unpack(memoryview(bomb))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * frames.MAX_PAYLOAD


def test_the_header_says_the_payloads_length() -> None:
    assert frames.decode(frames.zstd_header(3, 4096, 77)) == (FrameKind.DATA_ZSTD, 3, 77, 4096)
    with pytest.raises(FrameError):
        frames.decode(frames.zstd_header(3, 4096, frames.MAX_PAYLOAD + 1))
