"""A cap over all streams of a move: never passed, whatever is asked in what order, and writes go before bulk."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from kvmove.transport.bandwidth import BURST_SECONDS, CREDIT_BYTES, CREDIT_SECONDS, Bandwidth, TokenBucket, shares
from kvmove.units import KIB, MIB

ITEM = 256 * KIB
RATES = st.integers(64 * KIB, 2**33)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@given(RATES, st.lists(st.tuples(st.floats(0, 2), st.integers(1, ITEM)), max_size=60))
def test_no_more_than_the_rate_passes(rate: int, asks: list[tuple[float, int]]) -> None:
    bucket = TokenBucket(rate, 0.0)
    now, sent = 0.0, 0
    for wait, size in asks:
        now += wait
        if bucket.may(now):
            bucket.take(size, now)
            sent += size
    assert sent <= rate * (now + BURST_SECONDS) + ITEM + 1


@given(RATES, st.lists(st.tuples(st.floats(0, 2), st.integers(1, ITEM), st.booleans()), max_size=60))
def test_bulk_and_writes_together_stay_below_the_cap(rate: int, asks: list[tuple[float, int, bool]]) -> None:
    clock = Clock()
    bandwidth = Bandwidth(rate, clock)
    for wait, size, is_write in asks:
        clock.now += wait
        if is_write and bandwidth.may_send_writes():
            bandwidth.sent_writes(size)
        elif not is_write and bandwidth.may_send_bulk():
            bandwidth.sent_bulk(size)
    sent = bandwidth.bulk_bytes + bandwidth.write_bytes
    assert sent <= rate * (clock.now + BURST_SECONDS + CREDIT_SECONDS) + CREDIT_BYTES + ITEM + 1


@given(RATES, RATES, st.integers(0, 20))
def test_what_was_owed_or_saved_under_another_rate_does_not_last(first: int, second: int, seconds: int) -> None:
    bucket = TokenBucket(first, 0.0)
    bucket.set_rate(None, float(seconds))
    bucket.set_rate(second, float(seconds))
    sent = 0
    allowed = second * BURST_SECONDS + ITEM
    while bucket.may(float(seconds)) and sent <= allowed:
        bucket.take(ITEM, float(seconds))
        sent += ITEM
    assert sent <= allowed


def test_bulk_yields_to_writes() -> None:
    clock = Clock()
    bandwidth = Bandwidth(MIB, clock)
    while bandwidth.may_send_bulk():
        bandwidth.sent_bulk(ITEM)
    assert bandwidth.may_send_writes()
    for _ in range(200):  # a guest that writes half of the cap: never held, whatever bulk does
        clock.now += 0.01
        assert bandwidth.may_send_writes()
        bandwidth.sent_writes(MIB // 200)
        if bandwidth.may_send_bulk():
            bandwidth.sent_bulk(ITEM)
    assert bandwidth.bulk_bytes > 0.3 * MIB


def test_bulk_has_its_turn_where_writes_alone_are_more_than_the_cap() -> None:
    clock = Clock()
    bandwidth = Bandwidth(MIB, clock)
    bandwidth.sent_writes(MIB)
    assert not bandwidth.may_send_bulk()
    assert bandwidth.may_send_bulk(in_turn=True) is bandwidth.may_send_writes()


def test_a_limit_of_nothing_holds_and_none_lets_go() -> None:
    bandwidth = Bandwidth(0, Clock())
    assert not bandwidth.may_send_bulk()
    bandwidth.set_cap(None)
    assert bandwidth.may_send_bulk()
    bandwidth.limit_bulk(0)
    assert not bandwidth.may_send_bulk()
    assert bandwidth.may_send_writes()


@given(RATES, st.floats(0, 2**34))
def test_disks_and_memory_share_a_cap(cap: int, disk_rate: float) -> None:
    disks, memory = shares(cap, disk_rate)
    assert disks + memory == cap
    assert disks > 0
    assert memory >= cap // 4
