"""Two ends of a memory channel and a wire that breaks at any byte, against what a QEMU has sent."""

import resource
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvmove.memory.channel_end import WINDOW as WHOLE_WINDOW
from kvmove.memory.channel_end import ChannelEnd
from kvmove.wire.channel_frames import ChannelFrameError, ChannelFrameKind, encode

WINDOW = 37
"""Small and odd, so that the ring wraps at every place."""


class Side:
    """An end with its QEMU: what that has sent, what it was given, and what is on the wire towards the other side."""

    def __init__(self, first: int) -> None:
        self.end = ChannelEnd(WINDOW, ack_every=5)
        self.sent = bytearray()
        self.given = bytearray()
        self.wire = bytearray()
        self._next = first

    def take(self, wanted: int) -> int:
        room = self.end.room()[:wanted]
        for index in range(len(room)):
            room[index] = self._next = (self._next * 5 + 1) % 256
        self.sent += room
        self.end.took(len(room))
        return len(room)

    def send(self) -> int:
        due = self.end.output()
        for item in due:
            self.wire += item
        return len(due)

    def receive(self, data: bytes, lost_after: int | None = None) -> None:
        """Pass on what has come; `lost_after`: only so many bytes of it, then the connection breaks."""
        rest = memoryview(data)
        while rest:
            piece, rest = self.end.read(rest)
            if piece is None or piece.kind is not ChannelFrameKind.DATA:
                continue
            payload = piece.payload if lost_after is None else piece.payload[:lost_after]
            self.given += payload
            self.end.passed(len(payload))
            if lost_after is not None:
                return


class BrokenChannel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.sides = (Side(1), Side(2))
        self._connect()

    def _connect(self) -> None:
        for side in self.sides:
            side.wire.clear()
            side.wire += side.end.connect()

    def _carry(self, number: int, count: int, lost_after: int | None = None) -> None:
        wire = self.sides[number].wire
        data = bytes(wire[:count])
        del wire[:count]
        self.sides[1 - number].receive(data, lost_after)

    @rule(number=st.integers(0, 1), count=st.integers(1, 60))
    def take(self, number: int, count: int) -> None:
        self.sides[number].take(count)

    @rule(number=st.integers(0, 1))
    def send(self, number: int) -> None:
        self.sides[number].send()

    @rule(number=st.integers(0, 1))
    def show_life(self, number: int) -> None:
        side = self.sides[number]
        if side.end.may_send:
            side.wire += side.end.sign_of_life()

    @rule(number=st.integers(0, 1), count=st.integers(1, 80))
    def carry(self, number: int, count: int) -> None:
        self._carry(number, count)

    @rule(number=st.integers(0, 1), count=st.integers(0, 80), passed=st.integers(0, 20))
    def break_the_connection(self, number: int, count: int, passed: int) -> None:
        """Some bytes arrive still, some of those are passed on still; the rest is gone."""
        self._carry(number, count, passed)
        self._connect()

    @rule(number=st.integers(0, 1))
    def qemu_ends(self, number: int) -> None:
        self.sides[number].end.end()

    @precondition(lambda self: True)
    @invariant()
    def what_was_passed_on_is_the_beginning_of_what_was_sent(self) -> None:
        for one, other in (self.sides, self.sides[::-1]):
            assert bytes(other.given) == bytes(one.sent[: len(other.given)])
            assert one.end.acknowledged <= len(other.given) + other.end.is_ended_there
            assert one.end.taken - one.end.acknowledged <= WINDOW
            if other.end.is_ended_there:
                assert one.end.is_ended and other.given == one.sent

    def teardown(self) -> None:
        """Over a connection that holds, all of it arrives, and both ends know."""
        for side in self.sides:
            side.end.end()
        self._connect()
        for _ in range(200):
            for number, side in enumerate(self.sides):
                side.send()
                self._carry(number, len(side.wire))
        for one, other in (self.sides, self.sides[::-1]):
            assert other.given == one.sent
            assert one.end.is_delivered and other.end.is_ended_there


TestBrokenChannel = BrokenChannel.TestCase
TestBrokenChannel.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def resumed() -> ChannelEnd:
    """One that has sent 10 bytes, of which 4 are acknowledged."""
    end = ChannelEnd(WINDOW)
    end.connect()
    end.read(memoryview(encode(ChannelFrameKind.AT, 0)))
    end.took(len(end.room()[:10]))
    end.output()
    end.read(memoryview(encode(ChannelFrameKind.ACK, 4)))
    return end


@pytest.mark.parametrize("position", [3, 11])
def test_a_position_that_cannot_be_is_refused(position: int) -> None:
    with pytest.raises(ChannelFrameError, match="between 4 and 10"):
        resumed().read(memoryview(encode(ChannelFrameKind.ACK, position)))
    end = resumed()
    end.connect()
    with pytest.raises(ChannelFrameError, match="between 4 and 10"):
        end.read(memoryview(encode(ChannelFrameKind.AT, position)))


def test_nothing_may_come_before_the_peer_has_said_where_it_is_nor_after_its_end() -> None:
    end = ChannelEnd(WINDOW)
    end.connect()
    assert end.output() == []
    assert len(end.room()) == 0
    with pytest.raises(ChannelFrameError, match="does not belong"):
        end.read(memoryview(encode(ChannelFrameKind.ACK, 0)))
    end = resumed()
    end.read(memoryview(encode(ChannelFrameKind.END)))
    with pytest.raises(ChannelFrameError, match="after its end"):
        end.read(memoryview(encode(ChannelFrameKind.DATA, 1) + b"x"))
    with pytest.raises(ChannelFrameError, match="does not belong"):
        resumed().read(memoryview(encode(ChannelFrameKind.AT, 0)))


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_memory_is_taken_only_as_far_as_it_fills() -> None:
    before = resident()
    ends = [ChannelEnd() for _ in range(8)]
    assert resident() - before < len(ends) * WHOLE_WINDOW / 4
