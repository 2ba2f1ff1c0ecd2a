"""When a guest's writes are to wait for their mirrors, and a mirror that makes room for another."""

from kvmove.mover.dispatcher import BLOCK_SECONDS, DiskTerms, Dispatcher, Limits
from kvmove.mover.region_map import RegionCopy

REGION = 1024


def copying(regions: int, high_mark: int = REGION) -> Dispatcher:
    dispatcher = Dispatcher([DiskTerms(regions * REGION)], REGION, Limits(high_mark=high_mark, low_mark=0, budget=1.0))
    dispatcher.add_stream(1)
    dispatcher.copying = True
    return dispatcher


def copy_one(dispatcher: Dispatcher) -> None:
    copy = dispatcher.claim_region(1)
    assert isinstance(copy, RegionCopy)
    assert dispatcher.frames_queued(copy, 1, REGION)
    dispatcher.bulk_handed(copy)
    dispatcher.acknowledged(1, dispatcher.streams[1].acknowledged + 1)


def test_while_much_is_left_no_write_waits() -> None:
    dispatcher = copying(4)
    assert not dispatcher.why_block(), "no pace is known"
    dispatcher.streams[1].pace = REGION / BLOCK_SECONDS
    for _ in range(2):
        copy_one(dispatcher)
        assert not dispatcher.why_block()


def test_shortly_before_the_end_they_wait() -> None:
    dispatcher = copying(4)
    dispatcher.streams[1].pace = REGION / BLOCK_SECONDS
    for _ in range(3):
        copy_one(dispatcher)
    assert "nearly copied" in dispatcher.why_block()


def test_where_no_pace_is_known_they_wait_at_the_end() -> None:
    dispatcher = copying(1)
    assert not dispatcher.why_block()
    copy_one(dispatcher)
    assert "nearly copied" in dispatcher.why_block()


def outrun(dispatcher: Dispatcher) -> None:
    """The guest writes more than the buffer holds."""
    copy_one(dispatcher)
    assert not dispatcher.mirrored(0, (0, REGION), b"x" * REGION, 1, 0.0)


def test_a_guest_that_outruns_the_destination_waits_from_then_on() -> None:
    dispatcher = copying(100, high_mark=REGION - 1)
    outrun(dispatcher)
    assert "faster than the destination" in dispatcher.why_block()
    assert dispatcher.take_writes(1, REGION)
    dispatcher.acknowledged(1, 2)
    assert "faster than the destination" in dispatcher.why_block()


def test_a_mirror_that_is_gone_gets_no_answers_and_what_it_brought_is_sent() -> None:
    dispatcher = copying(100, high_mark=REGION - 1)
    outrun(dispatcher)
    dispatcher.mirror_gone(0)
    assert not dispatcher.take_answers()
    assert len(dispatcher.take_writes(1, REGION)) == 1
    dispatcher.acknowledged(1, 2)
    assert not dispatcher.take_answers()
