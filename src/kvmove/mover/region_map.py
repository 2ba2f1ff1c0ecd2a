"""Which regions of a disk have been copied, and what that means for a write the guest makes now. Pure.

A region is a fixed piece of a disk. Everything that changes a region's state stands in this file.

    state      a mirrored write is                        leaves the state when
    UNCOPIED   ignored: the bulk copy has yet to read it  the copier begins to read it        -> COPYING
    COPYING    kept, sent after the region's bulk data    the destination acknowledged it all -> COPIED
    COPIED     forwarded                                  its data could not be delivered     -> UNCOPIED

Invariant: a mirrored write may be ignored only if the read of its region has not begun. It leans on QEMU, which
writes to the source disk first and to the mirror after (QEMU 7.2 block/mirror.c, bdrv_mirror_top_do_write), so a
read that begins after a mirrored write arrived sees that write.

Order at the destination is kept by pins: while anything of a region is on its way over a stream, the region is
pinned to that stream, and all else of the region takes the same stream, behind it. A stream applies its frames in
order. A region whose stream died stays pinned to the dead stream, and so cannot be copied, until the destination
has fenced that stream: applied or dropped all of it, for good.

What is known to be all that the destination lacks of an UNCOPIED region is kept, in blocks, so that only this is copied
again: a guest that writes here and there through an outage would else have all of its disk copied again. What is
written to such a region is lacking too.

Deliberately not here: which stream gets what and how much waits (dispatcher), reading and sending (sender).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


BLOCKS = 256
"""Of a region: of 1 MiB each has 4 KiB, a page of a guest."""


class RegionState(IntEnum):
    """State of a region at the source."""

    UNCOPIED = 0
    COPYING = 1
    COPIED = 2


class RegionEvent(Enum):
    """What may happen to a region."""

    READ_BEGINS = "read begins"
    ACKNOWLEDGED = "acknowledged"
    UNDELIVERED = "undelivered"


TRANSITIONS: dict[tuple[RegionState, RegionEvent], RegionState] = {
    (RegionState.UNCOPIED, RegionEvent.READ_BEGINS): RegionState.COPYING,
    (RegionState.COPYING, RegionEvent.ACKNOWLEDGED): RegionState.COPIED,
    (RegionState.COPYING, RegionEvent.UNDELIVERED): RegionState.UNCOPIED,
    (RegionState.COPIED, RegionEvent.UNDELIVERED): RegionState.UNCOPIED,
    (RegionState.UNCOPIED, RegionEvent.UNDELIVERED): RegionState.UNCOPIED,
}
"""All that may happen; anything else is a defect and raises KeyError."""


_IS_COPIED = bytes(state == RegionState.COPIED for state in range(256))


class Verdict(Enum):
    """What becomes of a mirrored write."""

    IGNORE = "ignore"
    HOLD = "hold"
    FORWARD = "forward"


VERDICTS: dict[RegionState, Verdict] = {
    RegionState.UNCOPIED: Verdict.IGNORE,
    RegionState.COPYING: Verdict.HOLD,
    RegionState.COPIED: Verdict.FORWARD,
}


@dataclass(slots=True, eq=False)
class RegionCopy:
    """One visit of the bulk copier to a region: from the first read to the last acknowledgement.

    `untouched` means that the disk was blank and nothing was ever sent for the region, so the destination holds zeroes
    there. `handed` is set when all bulk data is in the stream's queue; from then on mirrored writes may follow it
    directly. `unacknowledged` counts its bulk frames. A copy that is no longer the region's current one is `abandoned`:
    its frames still count for the pin, and nothing else. `blocks` are those of the region that it brings, a bit
    for each `block` bytes; None: all of it.
    """

    disk: int
    region: int
    offset: int
    length: int
    stream: int
    untouched: bool
    handed: bool = False
    abandoned: bool = False
    unacknowledged: int = 0
    blocks: int | None = None
    block: int = 1

    def spans(self) -> Iterator[tuple[int, int]]:
        """(start, end) of each run that it brings; bytes of the disk."""
        end = self.offset + self.length
        if self.blocks is None:
            yield self.offset, end
            return
        at, left = self.offset, self.blocks
        while left:
            skipped = (left & -left).bit_length() - 1
            left >>= skipped
            run = ((left + 1) & -(left + 1)).bit_length() - 1
            left >>= run
            start = at + skipped * self.block
            at = start + run * self.block
            yield start, min(at, end)


@dataclass(slots=True)
class Pin:
    """`pending` counts what is on its way over `stream` for one region: queued, held back or sent."""

    stream: int
    pending: int = 0


@dataclass(slots=True)
class RegionMap:
    """The regions of one disk of `size` bytes. Not thread-safe.

    `blank` says that the destination's disk reads as zeroes at first; else no region of it is ever untouched.
    """

    disk: int
    size: int
    region_size: int
    blank: bool = True
    copied: int = 0  # bytes in state COPIED
    returned: int = 0  # bytes that went back to UNCOPIED after having been read
    pins: dict[int, Pin] = field(default_factory=dict)
    copies: dict[int, RegionCopy] = field(default_factory=dict)
    _states: bytearray = field(init=False)
    _touched: bytearray = field(init=False)
    _returned: bytearray = field(init=False)
    _cursor: int = 0
    _block: int = 1
    _missing: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = -(-self.size // self.region_size)
        self._states = bytearray(count)
        self._returned = bytearray(count)
        self._block = max(self.region_size // BLOCKS, 1)
        self._touched = bytearray(count) if self.blank else bytearray(b"\1" * count)

    # Queries.

    def __len__(self) -> int:
        return len(self._states)

    def state(self, region: int) -> RegionState:
        return RegionState(self._states[region])

    def states(self) -> bytes:
        """One byte per region, `RegionState` as a number."""
        return bytes(self._states)

    def restore(self, copied: bytes) -> None:
        """Begin with what an earlier move of this disk had copied to the same place: one byte a region, not 0 if so.

        :raise ValueError: it is of another disk, or something was done already.
        """
        if len(copied) != len(self._states) or any(self._states):
            raise ValueError(f"{len(copied)} regions to be restored of {len(self._states)}")
        self._touched = bytearray(b"\1" * len(copied))
        for region, is_copied in enumerate(copied):
            if is_copied:
                self._states[region] = RegionState.COPIED
                self.copied += self.length(region)

    def at_rest(self) -> bytes:
        """One byte a region: 1 where the destination has all that has arrived here, and nothing is on its way."""
        found = self._states.translate(_IS_COPIED)
        for region in self.pins:
            found[region] = 0
        return bytes(found)

    def went_back(self) -> bytes:
        """One byte per region: 1 for each that went back to UNCOPIED at least once."""
        return bytes(self._returned)

    def length(self, region: int) -> int:
        """Bytes of a region; the last may be short."""
        return min(self.region_size, self.size - region * self.region_size)

    def all_copied(self) -> bool:
        return self.copied == self.size

    def settled(self) -> bool:
        """Whether source and destination are equal: all copied and nothing on its way."""
        return self.all_copied() and not self.pins

    def pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Cut a byte range at region borders: (region, offset, length) each."""
        end = offset + length
        while offset < end:
            region = offset // self.region_size
            stop = min(end, (region + 1) * self.region_size)
            yield region, offset, stop - offset
            offset = stop

    def verdict(self, region: int) -> Verdict:
        """What becomes of a mirrored write to `region` that arrived now."""
        state = RegionState(self._states[region])
        if state is RegionState.COPYING and self.copies[region].handed:
            return Verdict.FORWARD  # the bulk data is queued on the pinned stream: behind it is order enough
        return VERDICTS[state]

    # Pins.

    def pin(self, region: int, stream: int, count: int = 1) -> None:
        """`count` things of `region` go on their way over `stream`.

        A pinned region takes only the stream it is pinned to.
        """
        pin = self.pins.setdefault(region, Pin(stream))
        if pin.stream != stream:
            raise AssertionError(f"region {region} is pinned to stream {pin.stream}, not {stream}")
        pin.pending += count
        self._touched[region] = 1

    def unpin(self, region: int) -> None:
        """One thing of `region` arrived, or was dropped before it was sent."""
        pin = self.pins[region]
        pin.pending -= 1
        if pin.pending == 0 and region not in self.copies:
            del self.pins[region]

    # Events.

    def _change(self, region: int, event: RegionEvent) -> None:
        before = RegionState(self._states[region])
        after = TRANSITIONS[before, event]
        self._states[region] = after
        length = self.length(region)
        self.copied += length * ((after is RegionState.COPIED) - (before is RegionState.COPIED))
        if after is RegionState.UNCOPIED and before is not RegionState.UNCOPIED:
            self._returned[region] = 1

    def begin_copy(self, stream: int) -> RegionCopy | None:
        """Begin to copy the next region that `stream` may take; None when there is none.

        The region is COPYING from here: the caller reads, and looks for holes, only after this returned.
        """
        region = self._next(stream)
        if region is None:
            return None
        self._change(region, RegionEvent.READ_BEGINS)
        self.pins.setdefault(region, Pin(stream))
        copy = RegionCopy(
            self.disk, region, region * self.region_size, self.length(region), stream, not self._touched[region],
            blocks=self._missing.pop(region, None), block=self._block,
        )  # fmt: skip
        self.copies[region] = copy
        return copy

    def _next(self, stream: int) -> int | None:
        """The next UNCOPIED region that is free or pinned to `stream`, from the cursor on and round."""
        for start, stop in ((self._cursor, len(self._states)), (0, self._cursor)):
            region = self._states.find(RegionState.UNCOPIED, start, stop)
            while region >= 0:
                pin = self.pins.get(region)
                if pin is None or pin.stream == stream:
                    self._cursor = region + 1
                    return region
                region = self._states.find(RegionState.UNCOPIED, region + 1, stop)
        return None

    def frames_queued(self, copy: RegionCopy, count: int) -> None:
        """`count` bulk frames of `copy` are sent now."""
        copy.unacknowledged += count
        self.pin(copy.region, copy.stream, count)

    def frame_acknowledged(self, copy: RegionCopy) -> None:
        """The destination applied a bulk frame of `copy`."""
        copy.unacknowledged -= 1
        self._finish_if_complete(copy)
        self.unpin(copy.region)

    def bulk_handed(self, copy: RegionCopy) -> None:
        """All bulk data of `copy` is queued on its stream (none at all if the region is a hole)."""
        copy.handed = True
        self._finish_if_complete(copy)

    def _finish_if_complete(self, copy: RegionCopy) -> None:
        if copy.abandoned or not copy.handed or copy.unacknowledged:
            return
        self._change(copy.region, RegionEvent.ACKNOWLEDGED)
        self._end_copy(copy)

    def _end_copy(self, copy: RegionCopy) -> None:
        del self.copies[copy.region]
        if self.pins[copy.region].pending == 0:
            del self.pins[copy.region]

    def undelivered(self, region: int, span: tuple[int, int] | None = None) -> None:
        """Data of `region` will not reach the destination and must be copied again: `span` (offset and length, bytes),
        and what a copy under way was to bring. None: as much as that, or all."""
        state, copy = RegionState(self._states[region]), self.copies.get(region)
        lacks = None if span is None else self._mask(*span)
        before = 0
        if state is RegionState.UNCOPIED:
            known = self._missing.get(region)
            before = self._size(region, known)
            lacks = None if known is None or lacks is None else known | lacks
        elif copy is not None:
            lacks = None if copy.blocks is None else copy.blocks | (lacks or 0)
        self._missing.pop(region, None)
        if lacks is not None:
            self._missing[region] = lacks
        if copy is None or copy.unacknowledged:  # else nothing of it was sent
            self.returned += self._size(region, lacks) - before
        self._change(region, RegionEvent.UNDELIVERED)
        if copy is not None:
            copy.abandoned = True
            self._end_copy(copy)

    def ignored(self, region: int, span: tuple[int, int]) -> None:
        """A write to `span` (offset and length, bytes) of an UNCOPIED region was not forwarded."""
        if region in self._missing:
            self.undelivered(region, span)

    def _mask(self, offset: int, length: int) -> int:
        """The blocks of its region that a range within one touches."""
        inside = offset % self.region_size
        first, end = inside // self._block, -(-(inside + length) // self._block)
        return ((1 << (end - first)) - 1) << first

    def _size(self, region: int, blocks: int | None) -> int:
        """Bytes of them, at most."""
        whole = self.length(region)
        return whole if blocks is None else min(blocks.bit_count() * self._block, whole)

    def fenced(self, stream: int) -> None:
        """The destination will never again apply anything of the dead `stream`: its regions are free."""
        for region in [region for region, pin in self.pins.items() if pin.stream == stream]:
            del self.pins[region]
