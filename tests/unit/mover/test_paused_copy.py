"""A paused copy: no region is begun, and what is copied stays in step."""

from kvmove.mover.dispatcher import DiskTerms, Dispatcher, Limits
from kvmove.mover.region_map import RegionCopy

REGION = 1024


def test_a_paused_copy_begins_nothing_and_forwards_all() -> None:
    dispatcher = Dispatcher([DiskTerms(4 * REGION)], REGION, Limits(high_mark=REGION, low_mark=0, budget=1.0))
    dispatcher.add_stream(1)
    dispatcher.copying = True
    copy = dispatcher.claim_region(1)
    assert isinstance(copy, RegionCopy)
    dispatcher.paused = True
    assert dispatcher.claim_region(1) is None
    assert dispatcher.mirrored(0, (0, 16), b"x" * 16, 1, 0.0), "held, and answered at once"
    assert dispatcher.frames_queued(copy, 1, REGION)
    dispatcher.bulk_handed(copy)
    assert len(dispatcher.take_writes(1, 4096)) == 1, "what was begun is finished"
    dispatcher.acknowledged(1, 2)
    assert dispatcher.mirrored(0, (8, 8), b"y" * 8, 2, 0.0)
    assert len(dispatcher.take_writes(1, 4096)) == 1, "what is copied stays in step"
    assert dispatcher.mirrored(0, (3 * REGION, 8), b"z" * 8, 3, 0.0)
    assert dispatcher.disks[0].counters.ignored == 1, "the rest has yet to be read"
    dispatcher.paused = False
    assert dispatcher.claim_region(1) is not None
