"""The codec of a memory channel's frames."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.wire.channel_frames import (
    HEADER,
    MAX_PAYLOAD,
    ChannelFrameError,
    ChannelFrameKind,
    ChannelFrameReader,
    encode,
)

Sent = bytes | tuple[ChannelFrameKind, int]

FRAMES = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=40),
        st.tuples(
            st.sampled_from([kind for kind in ChannelFrameKind if kind is not ChannelFrameKind.DATA]),
            st.integers(0, 2**64 - 1),
        ),
    ),
    max_size=8,
)


@given(FRAMES, st.lists(st.integers(1, 30), min_size=1))
def test_frames_are_read_as_sent_however_they_are_cut(frames: list[Sent], cuts: list[int]) -> None:
    wire = b"".join(
        encode(ChannelFrameKind.DATA, len(frame)) + frame if isinstance(frame, bytes) else encode(*frame)
        for frame in frames
    )
    seen: list[Sent] = []
    reader, at, turn = ChannelFrameReader(), 0, 0
    while at < len(wire):
        data = memoryview(wire)[at : at + cuts[turn % len(cuts)]]
        at, turn = at + len(data), turn + 1
        while data:
            piece, data = reader.read(data)
            if piece is not None and piece.kind is ChannelFrameKind.DATA:
                seen.append(bytes(piece.payload))
            elif piece is not None:
                seen.append((piece.kind, piece.value))
    assert _joined(seen) == _joined(frames)


def _joined(frames: list[Sent]) -> list[Sent]:
    """Bytes that follow one another are one."""
    joined: list[Sent] = []
    for frame in frames:
        if joined and isinstance(frame, bytes) and isinstance(last := joined[-1], bytes):
            joined[-1] = last + frame
        else:
            joined.append(frame)
    return joined


@given(st.binary(max_size=64))
def test_any_bytes_are_frames_or_a_clear_error(data: bytes) -> None:
    reader, rest = ChannelFrameReader(), memoryview(data)
    try:
        while rest:
            _, rest = reader.read(rest)
    except ChannelFrameError as error:
        assert "frame" in str(error)


@pytest.mark.parametrize("header", [(0, 1), (6, 1), (255, 0), (1, 0), (1, MAX_PAYLOAD + 1)])
def test_what_is_no_frame_is_refused(header: tuple[int, int]) -> None:
    with pytest.raises(ChannelFrameError):
        ChannelFrameReader().read(memoryview(HEADER.pack(*header)))
