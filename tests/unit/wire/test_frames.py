"""Frames and handshake: what is encoded is decoded, and no bytes of a peer do more than raise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.wire import frames, handshake
from kvmove.wire.frames import FrameKind
from kvmove.wire.handshake import Challenge, HandshakeError, Hello, Proof, Refusal, StreamRole, Welcome

OFFSETS = st.integers(0, 2**63)
HELLO = Hello(move="m1", role=StreamRole.DISK, number=3, nic="mig0")
NONCE = "ab" * 32


@given(st.integers(0, 65535), OFFSETS, st.integers(0, frames.MAX_PAYLOAD))
def test_a_data_header_is_decoded_as_it_was_made(disk: int, offset: int, length: int) -> None:
    frame = frames.decode(frames.data_header(disk, offset, length))
    assert frame == (FrameKind.DATA, disk, length, offset)


@given(st.integers(0, 65535), OFFSETS, st.integers(0, 2**32 - 1))
def test_zeroes_are_decoded_as_they_were_made(disk: int, offset: int, length: int) -> None:
    assert frames.decode(frames.zeroes(disk, offset, length)) == (FrameKind.ZEROES, disk, length, offset)


@given(st.binary(min_size=frames.HEADER_SIZE, max_size=64))
def test_any_bytes_give_a_bounded_frame_or_a_frame_error(data: bytes) -> None:
    try:
        frame = frames.decode(data)
    except frames.FrameError:
        return
    assert frame.kind is not FrameKind.DATA or frame.length <= frames.MAX_PAYLOAD


def test_a_reason_is_cut_to_its_bound() -> None:
    raw = frames.failed("x" * 5000)
    assert frames.decode(raw).length == frames.MAX_REASON == len(raw) - frames.HEADER_SIZE


@pytest.mark.parametrize("message", [HELLO, Challenge(nonce=NONCE), Proof(mac=NONCE), Welcome(), Refusal(reason="no")])
def test_a_message_is_decoded_as_it_was_made(message: handshake.Message) -> None:
    raw = handshake.encode(message)
    size = handshake.LENGTH.size
    assert handshake.decode_length(raw[:size]) == len(raw) - size
    assert handshake.decode(raw[size:]) == message


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_handshake_error(data: bytes) -> None:
    try:
        handshake.decode(data)
    except HandshakeError:
        return


@pytest.mark.parametrize("length", [0, handshake.MAX_MESSAGE + 1, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused(length: int) -> None:
    with pytest.raises(HandshakeError):
        handshake.decode_length(handshake.LENGTH.pack(length))


def test_a_proof_is_good_for_one_nonce_role_number_and_transport() -> None:
    proof = handshake.proof(b"ticket", NONCE, HELLO, encrypted=True)

    def right(ticket: bytes = b"ticket", nonce: str = NONCE, hello: Hello = HELLO, *, encrypted: bool = True) -> bool:
        return handshake.proof_is_right(ticket, nonce, hello, proof, encrypted=encrypted)

    assert right()
    assert not right(ticket=b"other")
    assert not right(nonce="cd" * 32)
    assert not right(hello=HELLO.model_copy(update={"number": 4}))
    assert not right(hello=HELLO.model_copy(update={"role": StreamRole.MEMORY}))
    assert not right(encrypted=False)
