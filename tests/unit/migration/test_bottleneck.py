"""What a move waited for most: a table of figures and names, and sentences for any figures at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.migration.bottleneck import LEAST_SECONDS, Terms, find_bottleneck, memory_bottleneck
from kvmove.model.time_spent import DestinationTime, DiskTime, Limit, StreamTime, WhereTimeWent
from kvmove.units import MIB

SPEED = 100 * MIB
FAST_DISK = DiskTime(name="root", read_seconds=2.0, read_bytes=900 * MIB)
SLOW_DISK = DiskTime(name="root", read_seconds=9.0, read_processor=0.5, read_bytes=90 * MIB)


def spent(
    *,
    sent: int = 900 * MIB,
    disk: DiskTime = FAST_DISK,
    there: DestinationTime | None = None,
    writes: int = 0,
    nic: str = "mig0",
    **waits: float,
) -> WhereTimeWent:
    """One stream of ten seconds."""
    stream = StreamTime.model_validate({"nic": nic, "sent": sent, "open_seconds": 10.0, **waits})
    return WhereTimeWent(
        streams=(stream,), disks=(disk,), destination=there, bulk_bytes=max(sent - writes, 0), write_bytes=writes
    )


CAPPED = Terms({"mig0": SPEED}, cap=8 * MIB)

CASES = [
    (spent(send_wait=8.0), Terms({"mig0": SPEED}), Limit.NETWORK),
    (spent(send_wait=8.0), Terms({}), Limit.NETWORK),
    (spent(send_wait=8.0, sent=300 * MIB), Terms({"mig0": SPEED}), Limit.NETWORK),
    (
        spent(send_wait=8.0, sent=300 * MIB, buffer_limited=7.0, round_trip_ms=80),
        Terms({"mig0": SPEED}),
        Limit.ROUND_TRIP,
    ),
    (spent(send_wait=8.0, buffer_limited=7.0, round_trip_ms=80), Terms({"mig0": SPEED}), Limit.NETWORK),
    (
        spent(send_wait=8.0, sent=300 * MIB, buffer_limited=7.0, round_trip_ms=0.2),
        Terms({"mig0": SPEED}),
        Limit.NETWORK,
    ),
    (spent(cap_wait=8.0), CAPPED, Limit.CAP),
    (spent(cap_wait=8.0), Terms({}, cap=0), Limit.CAP),
    (spent(cap_wait=8.0), Terms({}, cap=0, slowed_seconds=7.0), Limit.WRITE_LATENCY),
    (spent(cap_wait=8.0), Terms({}, cap=8 * MIB, slowed_seconds=1.0), Limit.CAP),
    (spent(reader_wait=8.0, disk=SLOW_DISK), Terms({}), Limit.SOURCE_DISK),
    (
        spent(reader_wait=8.0, disk=SLOW_DISK.model_copy(update={"read_processor": 8.0})),
        Terms({}),
        Limit.SOURCE_PROCESSOR,
    ),
    (
        spent(reader_wait=8.0, disk=SLOW_DISK.model_copy(update={"read_seconds": 1.0, "compress_seconds": 8.0})),
        Terms({}),
        Limit.SOURCE_PROCESSOR,
    ),
    (spent(reader_wait=1.0, send_wait=1.0), Terms({}), Limit.SOURCE_PROCESSOR),
    (spent(send_wait=8.0, there=DestinationTime(write_seconds=9.0)), Terms({}), Limit.DESTINATION_DISK),
    (spent(send_wait=8.0, there=DestinationTime(work_seconds=9.0)), Terms({}), Limit.DESTINATION_PROCESSOR),
    (spent(send_wait=8.0, there=DestinationTime(input_wait=9.0)), Terms({}), Limit.NETWORK),
    (spent(send_wait=8.0, writes=600 * MIB), Terms({}), Limit.GUEST_WRITES),
    (spent(nic="", disk=DiskTime(name="root", read_seconds=6.0, write_seconds=2.0)), Terms({}), Limit.SOURCE_DISK),
    (spent(nic="", disk=DiskTime(name="root", read_seconds=2.0, write_seconds=6.0)), Terms({}), Limit.DESTINATION_DISK),
    (spent(nic="", disk=DiskTime(name="root", kernel_seconds=6.0)), Terms({}), Limit.STORAGE),
    (spent(nic="", disk=DiskTime(name="root", read_seconds=2.0), cap_wait=7.0), CAPPED, Limit.CAP),
]


@pytest.mark.parametrize(("figures", "terms", "limit"), CASES)
def test_the_largest_wait_names_it(figures: WhereTimeWent, terms: Terms, limit: Limit) -> None:
    found = find_bottleneck(figures, terms)
    assert found is not None
    assert found.limit is limit
    assert found.sentence.endswith(".")


def test_the_sentence_has_the_figures() -> None:
    two = tuple(
        StreamTime(nic=nic, sent=1190 * MIB, open_seconds=12, idle=2, send_wait=9.8) for nic in ("mig0", "mig1")
    )
    disk = DiskTime(name="root", read_seconds=3.3, read_bytes=2380 * MIB)
    found = find_bottleneck(WhereTimeWent(streams=two, disks=(disk,)), Terms({"mig0": 120 * MIB, "mig1": 120 * MIB}))
    assert found is not None
    assert found.sentence == (
        "The network was the limit: 2 NICs carried 238.0 MiB/s of 240.0 MiB/s, 98 % of the time the streams waited for "
        "them; the source disk could have been read 3.0 times as fast."
    )


def test_idle_streams_tell_nothing() -> None:
    assert find_bottleneck(spent(idle=10.0 - LEAST_SECONDS / 2), Terms({})) is None
    assert find_bottleneck(WhereTimeWent(), Terms({})) is None


@pytest.mark.parametrize(
    ("size", "terms", "limit"),
    [
        (95 * MIB, Terms({"mig0": 10 * MIB}), Limit.NETWORK),
        (95 * MIB, Terms({"mig0": 100 * MIB}, cap=10 * MIB), Limit.CAP),
        (95 * MIB, Terms({"mig0": 100 * MIB}), None),
        (95 * MIB, Terms({}), None),
    ],
)
def test_memory_alone_fills_the_network_or_the_cap(size: int, terms: Terms, limit: Limit | None) -> None:
    found = memory_bottleneck(WhereTimeWent(memory_seconds=10.0, memory_bytes=size), terms)
    assert (found.limit if found is not None else None) == limit


SECONDS = st.floats(0, 1e6)
STREAMS = st.lists(
    st.builds(
        StreamTime, nic=st.sampled_from(["", "a", "b"]), sent=st.integers(0, 2**50), open_seconds=SECONDS,
        idle=SECONDS, reader_wait=SECONDS, send_wait=SECONDS, cap_wait=SECONDS, buffer_limited=SECONDS,
        round_trip_ms=SECONDS,
    ),
    max_size=3,
)  # fmt: skip
DISKS = st.lists(
    st.builds(
        DiskTime, name=st.just("root"), read_seconds=SECONDS, read_processor=SECONDS, read_bytes=st.integers(0, 2**50),
        compress_seconds=SECONDS, write_seconds=SECONDS, kernel_seconds=SECONDS,
    ),
    min_size=1, max_size=2,
)  # fmt: skip
THERE = st.none() | st.builds(DestinationTime, input_wait=SECONDS, write_seconds=SECONDS, work_seconds=SECONDS)
TERMS = st.builds(
    Terms, st.dictionaries(st.sampled_from("ab"), st.integers(0, 2**40)), st.integers(0, 2**40), SECONDS
)  # fmt: skip


@given(
    st.builds(
        WhereTimeWent, streams=STREAMS.map(tuple), disks=DISKS.map(tuple), destination=THERE,
        bulk_bytes=st.integers(0, 2**50), write_bytes=st.integers(0, 2**50), memory_seconds=SECONDS,
        memory_bytes=st.integers(0, 2**50),
    ),
    TERMS,
)  # fmt: skip
def test_any_figures_give_one_sentence_or_none(figures: WhereTimeWent, terms: Terms) -> None:
    found = find_bottleneck(figures, terms)
    if found is not None:
        assert 0 <= found.share <= 1
        assert found.sentence.count("\n") == 0
        assert found.sentence.startswith("The ")
