"""How mirrored writes of one disk are forwarded, and when that changes. Pure.

    mode     the guest's write is answered                     why
    ASYNC    as soon as it is in the forward buffer            the source disk has it and is the truth until the commit
    SYNC     when the destination has applied it               the guest outruns the wire or the destination's disk
    RECOPY   at once, and its region is copied again later     waiting would break the guest's latency budget

Every change has its reason, shown to the operator. Deliberately not here: the buffer and the clock (dispatcher).
"""

from enum import StrEnum


class ForwardMode(StrEnum):
    ASYNC = "async"
    SYNC = "sync"
    RECOPY = "re-copy"


class ForwardEvent(StrEnum):
    """What may change the mode; the value is the reason as the operator reads it."""

    ABOVE_HIGH_MARK = "the guest writes faster than the destination takes it"
    BELOW_LOW_MARK = "the forward buffer has emptied"
    LATE = "a write has waited as long as the guest may be held"
    STREAMS_LOST = "no stream to the destination is left"
    FLOWING = "the destination takes data again"


TRANSITIONS: dict[tuple[ForwardMode, ForwardEvent], ForwardMode] = {
    (ForwardMode.ASYNC, ForwardEvent.ABOVE_HIGH_MARK): ForwardMode.SYNC,
    (ForwardMode.ASYNC, ForwardEvent.STREAMS_LOST): ForwardMode.RECOPY,
    (ForwardMode.SYNC, ForwardEvent.BELOW_LOW_MARK): ForwardMode.ASYNC,
    (ForwardMode.SYNC, ForwardEvent.LATE): ForwardMode.RECOPY,
    (ForwardMode.SYNC, ForwardEvent.STREAMS_LOST): ForwardMode.RECOPY,
    (ForwardMode.RECOPY, ForwardEvent.FLOWING): ForwardMode.ASYNC,
}
"""An event that is not listed for a mode leaves the mode as it is."""


def next_mode(mode: ForwardMode, event: ForwardEvent) -> ForwardMode:
    """The mode after `event`."""
    return TRANSITIONS.get((mode, event), mode)
