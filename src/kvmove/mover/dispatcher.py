"""Decides, for all disks and streams of one move, what goes where and when the guest is answered. Pure.

In: mirrored writes, streams that come and go, acknowledgements, the time. Out: what a stream sends next, and which
mirrored writes the guest may now be told are done. Threads call it under one lock (disk_move).

    mirrored write --verdict--> ignored | held in its region's copy | queued on a stream --taken--> in flight --acked-->
    bulk copy      --claim region, frame by frame----------------------------------------> in flight --acked-->

- Queued mirrored writes overtake bulk data that is not yet handed to a stream. In SYNC mode the two alternate, so
  a guest that writes without pause cannot starve the bulk copy.
- What is queued or held is bounded: above `high_mark` bytes of a disk its mode becomes SYNC and the guest waits; a
  guest that waited `budget` seconds is released and its disk's queue dropped (RECOPY).
- Once sent, a write's data is not kept: if its stream dies, its region is copied again.
- A stream that died is fenced over a living one before its regions may be copied again (region_map, pins).
- While `paused` no region is begun; what is copied stays in step, and writes to the rest are ignored as ever.
- Disks take turns (turns). Writes to what waits cost nothing: its regions are UNCOPIED.

Invariant: a region is COPIED and without pin only if the destination has exactly the source's data, but for
mirrored writes that have not arrived here yet. Deliberately not here: threads, sockets, clocks, disks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvmove.mover.forward_mode import ForwardEvent, ForwardMode, next_mode
from kvmove.mover.region_map import RegionCopy, RegionMap, Verdict
from kvmove.mover.shares import Load, may_take
from kvmove.mover.turns import Turns

Payload = bytes | bytearray | memoryview

MOST_PIECES = 128
"""Pieces taken at once: a batch must stay short where its pieces weigh nothing (zeroes)."""


BLOCK_SECONDS = 1.0
"""So long before the disks are copied, by the streams' pace, the guest's writes begin to wait for their mirrors."""


@dataclass(slots=True, frozen=True)
class DiskTerms:
    """One disk of a move. `size` in bytes; `places` are what its copy keeps busy (turns).

    `blank` says that the destination's disk reads as zeroes until something is sent; else it may hold anything.
    `kept` are the regions that are there already, as `RegionMap.restore` takes them; empty if none is known to be.
    """

    size: int
    places: frozenset[str] = frozenset()
    blank: bool = True
    kept: bytes = b""


@dataclass(slots=True, eq=False)
class MirroredWrite:
    """A write that QEMU sent us and that the guest may be waiting for. `payload` None means zeroes."""

    disk: int
    cookie: int
    arrived: float
    parts: int = 0  # pieces that the destination has yet to apply
    answered: bool = False


@dataclass(slots=True, eq=False)
class WritePiece:
    """The part of a mirrored write that lies in one region."""

    write: MirroredWrite
    region: int
    offset: int
    length: int
    payload: Payload | None

    @property
    def weight(self) -> int:
        """Bytes of the forward buffer that it takes."""
        return len(self.payload) if self.payload is not None else 0

    @property
    def span(self) -> tuple[int, int]:
        return self.offset, self.length


@dataclass(slots=True)
class DiskCounters:
    """What happened to one disk's data, in pieces and bytes; only ever grows."""

    forwarded: int = 0
    ignored: int = 0
    mirrored_bytes: int = 0
    sent: int = 0
    mode_changes: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class DiskState:
    """One disk: its regions, its forwarding mode with the reason, and the writes whose guest waits (oldest first)."""

    regions: RegionMap
    mode: ForwardMode = ForwardMode.ASYNC
    reason: str = ""
    buffered: int = 0
    held: dict[int, list[WritePiece]] = field(default_factory=dict)
    waiting: dict[int, MirroredWrite] = field(default_factory=dict)
    counters: DiskCounters = field(default_factory=DiskCounters)


@dataclass(slots=True, eq=False)
class StreamState:
    """One living stream: its queue of mirrored writes, what it has in flight, and the region it copies.

    `pace` (bytes/s; None: not known) and `round_trip` (seconds) are set from outside, and bound what it is given.
    """

    queue: deque[WritePiece] = field(default_factory=deque)
    queued_bytes: int = 0
    in_flight: deque[WritePiece | RegionCopy | int] = field(default_factory=deque)  # int: fence of that stream
    acknowledged: int = 0
    bulk_is_next: bool = False
    pace: float | None = None
    round_trip: float = 0.0


@dataclass(slots=True, frozen=True)
class Limits:
    """Bytes per disk at which forwarding turns SYNC and back, and seconds that a guest write may wait."""

    high_mark: int
    low_mark: int
    budget: float


class Dispatcher:
    """The decisions of one move. Not thread-safe: callers hold one lock."""

    def __init__(self, disks: Sequence[DiskTerms], region_size: int, limits: Limits) -> None:
        self.limits = limits
        self.disks = [
            DiskState(RegionMap(number, disk.size, region_size, disk.blank)) for number, disk in enumerate(disks)
        ]
        for state, terms in zip(self.disks, disks, strict=True):
            if terms.kept:
                state.regions.restore(terms.kept)
        self._turns = Turns([disk.places for disk in disks])
        for disk in self.disks:
            self._note_turn(disk)  # an empty disk is complete
        self.streams: dict[int, StreamState] = {}
        self.copying = False
        self.paused = False
        self._region_size = region_size
        self._to_fence: list[int] = []
        self._answers: list[tuple[int, int]] = []

    # Streams come and go.

    def add_stream(self, stream: int) -> None:
        """A stream is open. Stream numbers are never used twice in a move."""
        self.streams[stream] = StreamState()

    def lose_stream(self, stream: int) -> None:
        """A stream died: what it had is copied again, once the destination has fenced it."""
        state = self.streams.pop(stream)
        for piece in state.queue:
            self._drop(piece)
        for item in state.in_flight:
            if isinstance(item, WritePiece):
                self._release(item.write)
                self._return_region(self.disks[item.write.disk], item.region, item.span)
            elif isinstance(item, int):
                self._to_fence.append(item)
        for disk in self.disks:
            for region in [region for region, copy in disk.regions.copies.items() if copy.stream == stream]:
                self._return_region(disk, region)
        self._to_fence.append(stream)
        if not self.streams:
            for disk in self.disks:
                self._change_mode(disk, ForwardEvent.STREAMS_LOST)

    def next_fence(self, stream: int) -> int | None:
        """A dead stream that `stream` must now tell the destination to fence; None when there is none."""
        if not self._to_fence:
            return None
        dead = self._to_fence.pop()
        self.streams[stream].in_flight.append(dead)
        return dead

    # Mirrored writes.

    def mirrored(self, disk: int, extent: tuple[int, int], payload: Payload | None, cookie: int, now: float) -> bool:
        """A guest write to `extent` (offset, length) arrived; None as payload means zeroes.

        Return True if the guest may be told at once; else its cookie comes out of `take_answers` later.
        """
        state = self.disks[disk]
        write = MirroredWrite(disk, cookie, now)
        state.counters.mirrored_bytes += extent[1]
        for region, offset, length in state.regions.pieces(*extent):
            part = payload
            if payload is not None and length != extent[1]:
                part = payload[offset - extent[0] : offset - extent[0] + length]
            self._route(state, WritePiece(write, region, offset, length, part))
        if state.buffered > self.limits.high_mark:
            self._change_mode(state, ForwardEvent.ABOVE_HIGH_MARK)
        if write.answered or write.parts == 0 or state.mode is not ForwardMode.SYNC:
            write.answered = True
            return True
        state.waiting[cookie] = write
        return False

    def mirror_gone(self, disk: int) -> None:
        """Whoever sent the disk's mirrored writes has gone, and takes no answer any more; what came of them stands."""
        for write in list(self.disks[disk].waiting.values()):
            self._release(write)
        self._answers = [answer for answer in self._answers if answer[0] != disk]

    def why_block(self) -> str:
        """Why a guest's writes should wait for their mirrors from now on; empty while they need not."""
        for disk in self.disks:
            if any(ForwardMode.SYNC in change for change in disk.counters.mode_changes):
                return str(ForwardEvent.ABOVE_HIGH_MARK)
        left = sum(disk.regions.size - disk.regions.copied for disk in self.disks)
        if left <= BLOCK_SECONDS * sum(stream.pace or 0.0 for stream in self.streams.values()):
            return "the disks are nearly copied"
        return ""

    def unspecified(self, disk: int, extent: tuple[int, int]) -> None:
        """The guest discarded `extent`: what it holds now must be read again where it had been read before."""
        state = self.disks[disk]
        for region, offset, length in state.regions.pieces(*extent):
            if state.regions.verdict(region) is not Verdict.IGNORE:
                self._drop_queued(state, region)
                self._return_region(state, region, (offset, length))
            else:
                state.regions.ignored(region, (offset, length))

    def _route(self, disk: DiskState, piece: WritePiece) -> None:
        verdict = disk.regions.verdict(piece.region)
        if verdict is Verdict.IGNORE:
            disk.counters.ignored += 1
            disk.regions.ignored(piece.region, piece.span)
            return
        stream = self._stream_for(disk, piece.region)
        if stream is None or disk.mode is ForwardMode.RECOPY:
            self._return_region(disk, piece.region, piece.span)
            return
        piece.write.parts += 1
        disk.counters.forwarded += 1
        disk.buffered += piece.weight
        disk.regions.pin(piece.region, stream)
        if verdict is Verdict.HOLD:
            disk.held.setdefault(piece.region, []).append(piece)
        else:
            self._enqueue(stream, piece)

    def _stream_for(self, disk: DiskState, region: int) -> int | None:
        """The stream that a write to `region` must take, or the one that will have sent it first."""
        pin = disk.regions.pins.get(region)
        if pin is not None:
            return pin.stream if pin.stream in self.streams else None
        return min(self.streams, key=self._queue_seconds, default=None)

    def _queue_seconds(self, stream: int) -> tuple[float, int]:
        """Until `stream` would send a write that is queued now; where no pace is known, less queued is sooner."""
        state = self.streams[stream]
        if state.pace is None:
            return 0.0, state.queued_bytes
        load = Load(state.pace, self.given(stream))
        return load.seconds(state.queued_bytes), state.queued_bytes

    def _enqueue(self, stream: int, piece: WritePiece) -> None:
        state = self.streams[stream]
        state.queue.append(piece)
        state.queued_bytes += piece.weight

    # What a stream sends next.

    def take_writes(self, stream: int, most: int) -> list[WritePiece]:
        """Mirrored writes for `stream` to send now, about `most` bytes; they count as in flight from here."""
        state = self.streams[stream]
        if state.bulk_is_next and self.copying and not self.all_copied():
            state.bulk_is_next = False
            return []
        taken: list[WritePiece] = []
        size = 0
        while state.queue and size < most and len(taken) < MOST_PIECES:
            piece = state.queue.popleft()
            size += piece.weight
            taken.append(piece)
            disk = self.disks[piece.write.disk]
            disk.buffered -= piece.weight
            disk.counters.sent += piece.weight
            if disk.buffered < self.limits.low_mark and disk.mode is ForwardMode.SYNC:
                self._change_mode(disk, ForwardEvent.BELOW_LOW_MARK)
            state.bulk_is_next = disk.mode is ForwardMode.SYNC
        state.queued_bytes -= size
        state.in_flight.extend(taken)
        return taken

    def claim_region(self, stream: int) -> RegionCopy | None:
        """The next region for `stream` to copy; None when there is none for it now."""
        if not self.copying or self.paused or not self._may_take(stream):
            return None
        for number in self._turns.now:
            disk = self.disks[number]
            if disk.mode is ForwardMode.RECOPY and not self._flows(disk):
                continue
            copy = disk.regions.begin_copy(stream)
            if copy is not None:
                return copy
        return None

    def _may_take(self, stream: int) -> bool:
        if self.streams[stream].pace is None:
            return True
        loads = {number: Load(it.pace, self.given(number), it.round_trip) for number, it in self.streams.items()}
        size = sum(self.disks[number].regions.size for number in self._turns.now)
        return may_take(loads.pop(stream), list(loads.values()), self._region_size, self.left(), size)

    def given(self, stream: int) -> int:
        """Bytes of the regions that `stream` copies now and that have not arrived yet."""
        copies = (copy for disk in self.disks for copy in disk.regions.copies.values())
        return sum(copy.length for copy in copies if copy.stream == stream)

    def left(self) -> int:
        """Bytes, of the disks whose turn it is, that no stream has been given."""
        maps = [self.disks[number].regions for number in self._turns.now]
        return sum(it.size - it.copied - sum(copy.length for copy in it.copies.values()) for it in maps)

    def _flows(self, disk: DiskState) -> bool:
        """In RECOPY, one region at a time probes whether the destination takes data again."""
        return not disk.regions.copies

    def _note_turn(self, disk: DiskState) -> None:
        self._turns.note(disk.regions.disk, complete=disk.regions.all_copied())

    def frames_queued(self, copy: RegionCopy, count: int, size: int = 0) -> bool:
        """`count` bulk frames of `copy` with `size` bytes of data in all, read already, are sent now.

        False if the copy was abandoned: send no more of it.
        """
        if copy.abandoned:
            return False
        self.disks[copy.disk].counters.sent += size
        self.disks[copy.disk].regions.frames_queued(copy, count)
        self.streams[copy.stream].in_flight.extend([copy] * count)
        return True

    def bulk_handed(self, copy: RegionCopy) -> None:
        """All bulk frames of `copy` are in its stream's hands; what was held for the region may follow."""
        if copy.abandoned:
            return
        disk = self.disks[copy.disk]
        for piece in disk.held.pop(copy.region, ()):
            self._enqueue(copy.stream, piece)
        disk.regions.bulk_handed(copy)
        self._note_turn(disk)

    # What comes back.

    def acknowledged(self, stream: int, count: int) -> None:
        """The destination applied the first `count` frames of `stream`.

        :raise ValueError: it acknowledges what was not sent.
        """
        state = self.streams[stream]
        if not state.acknowledged <= count <= state.acknowledged + len(state.in_flight):
            raise ValueError(f"stream {stream} acknowledges frame {count} of {len(state.in_flight)} in flight")
        for _ in range(count - state.acknowledged):
            item = state.in_flight.popleft()
            if isinstance(item, RegionCopy):
                self._frame_applied(item)
            elif isinstance(item, WritePiece):
                self._piece_applied(item)
            else:
                for disk in self.disks:
                    disk.regions.fenced(item)
        state.acknowledged = count

    def _frame_applied(self, copy: RegionCopy) -> None:
        disk = self.disks[copy.disk]
        disk.regions.frame_acknowledged(copy)
        self._note_turn(disk)
        self._change_mode(disk, ForwardEvent.FLOWING)

    def _piece_applied(self, piece: WritePiece) -> None:
        disk = self.disks[piece.write.disk]
        disk.regions.unpin(piece.region)
        self._change_mode(disk, ForwardEvent.FLOWING)
        piece.write.parts -= 1
        if piece.write.parts == 0:
            self._release(piece.write)

    def tick(self, now: float) -> None:
        """Time passed: whoever waited too long is released."""
        for disk in self.disks:
            oldest = next(iter(disk.waiting.values()), None)
            if oldest is not None and now - oldest.arrived >= self.limits.budget:
                self._change_mode(disk, ForwardEvent.LATE)

    def take_answers(self) -> list[tuple[int, int]]:
        """(disk, cookie) of the mirrored writes that the guest may now be told are done."""
        answers, self._answers = self._answers, []
        return answers

    # Giving up on what waits.

    def _change_mode(self, disk: DiskState, event: ForwardEvent) -> None:
        mode = next_mode(disk.mode, event)
        if mode is disk.mode:
            return
        disk.counters.mode_changes.append(f"{disk.mode} -> {mode}: {event}")
        disk.mode, disk.reason = mode, str(event)
        if mode is ForwardMode.RECOPY:
            self._drop_all(disk)
        if mode is not ForwardMode.SYNC:
            for write in list(disk.waiting.values()):
                self._release(write)

    def _drop_all(self, disk: DiskState) -> None:
        """Drop what is queued or held for `disk`; the regions are copied again."""
        for state in self.streams.values():
            kept = deque(piece for piece in state.queue if self.disks[piece.write.disk] is not disk)
            dropped = [piece for piece in state.queue if self.disks[piece.write.disk] is disk]
            state.queue = kept
            state.queued_bytes = sum(piece.weight for piece in kept)
            for piece in dropped:
                self._drop(piece)
        for region in list(disk.held):
            self._return_region(disk, region)

    def _drop_queued(self, disk: DiskState, region: int) -> None:
        """Drop what is queued for `region`: bulk data that is read from now on may be sent before it."""
        pin = disk.regions.pins.get(region)
        state = self.streams.get(pin.stream) if pin is not None else None
        if state is None:
            return
        for piece in [piece for piece in state.queue if piece.region == region]:
            if self.disks[piece.write.disk] is disk:
                state.queue.remove(piece)
                state.queued_bytes -= piece.weight
                self._drop(piece)

    def _drop(self, piece: WritePiece) -> None:
        """`piece` was queued or held and will not be sent."""
        disk = self.disks[piece.write.disk]
        disk.buffered -= piece.weight
        disk.regions.unpin(piece.region)
        self._release(piece.write)
        self._return_region(disk, piece.region, piece.span)

    def _return_region(self, disk: DiskState, region: int, span: tuple[int, int] | None = None) -> None:
        held = disk.held.pop(region, [])
        disk.regions.undelivered(region, span)
        self._note_turn(disk)
        for piece in held:
            disk.regions.undelivered(region, piece.span)
            disk.buffered -= piece.weight
            disk.regions.unpin(region)
            self._release(piece.write)

    def _release(self, write: MirroredWrite) -> None:
        if write.answered:
            return
        write.answered = True
        if self.disks[write.disk].waiting.pop(write.cookie, None) is not None:
            self._answers.append((write.disk, write.cookie))

    # For people and for the switchover.

    def delivered(self) -> bool:
        """Whether every disk at the destination equals its source now; what a stream that was lost still holds might
        change that."""
        return all(disk.regions.settled() for disk in self.disks)

    def settled(self) -> bool:
        """Whether every disk at the destination equals its source, and nothing can change that any more."""
        return self.delivered() and not self._to_fence

    def all_copied(self) -> bool:
        """Whether the bulk copy has nothing left to do now."""
        return all(disk.regions.all_copied() for disk in self.disks)
