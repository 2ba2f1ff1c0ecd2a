"""The copy and mirror logic against a model, and the defects that the model must find.

`find_defect` lets the same events happen with one planted bug; each such test fails if the model no longer sees it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from kvmove.disk.extents import Extent
from kvmove.mover import bulk_copy
from kvmove.mover.dispatcher import DiskState, DiskTerms, Dispatcher, Limits, WritePiece
from kvmove.mover.forward_mode import ForwardEvent
from kvmove.mover.region_map import RegionCopy, RegionMap, RegionState, Verdict
from tests.support.mover_model import ModelDisk, MoverModel
from tests.support.mover_walk import PACED, RESTARTED, Event, walk

DISKS = [DiskTerms(72), DiskTerms(40)]
TURNS = [DiskTerms(size, frozenset({"source:a"}), blank=False) for size in (16, 12)]
"""Disks that are copied one after the other, into what may hold anything at first."""


WALKS = 10_000
"""Each 2 ms. The rarest of the planted bugs is seen by one in about 400, the first that sees it being the 109th."""


class MoverMachine(RuleBasedStateMachine):
    """Random guests, networks and time against the dispatcher."""

    make: Callable[..., Dispatcher] = Dispatcher
    model_type: type[MoverModel] = MoverModel
    disks = DISKS

    def __init__(self) -> None:
        super().__init__()
        self.model = self.model_type(type(self).disks, type(self).make)
        self.model.open_stream()
        self.model.open_stream()

    @rule(
        disk=st.integers(0, 1), offset=st.integers(0, 71), length=st.integers(1, 24), fill=st.integers(0, 255),
    )  # fmt: skip
    def guest_writes(self, disk: int, offset: int, length: int, fill: int) -> None:
        self.model.guest_write(disk, offset % self.disks[disk].size, bytes([fill]) * length, length)

    @rule(disk=st.integers(0, 1), offset=st.integers(0, 71), length=st.integers(1, 24), is_trim=st.booleans())
    def guest_zeroes_or_discards(self, disk: int, offset: int, length: int, is_trim: bool) -> None:
        self.model.guest_write(disk, offset % self.disks[disk].size, None, length, is_trim=is_trim)

    @rule(pick=st.integers(0, 7))
    def mirrored_write_arrives(self, pick: int) -> None:
        self.model.arrive(pick)

    @rule(disk=st.integers(0, 1), offset=st.integers(0, 71), fill=st.integers(0, 255))
    def guest_discards_behind_a_burst(self, disk: int, offset: int, fill: int) -> None:
        """More than the high mark is queued, so bulk data goes between, and the last of it is discarded."""
        for _ in range(2):
            self.model.guest_write(disk, offset % self.disks[disk].size, bytes([fill]) * 16, 16)
        self.model.guest_write(disk, offset % self.disks[disk].size, None, 16, is_trim=True)
        while self.model.arriving:
            self.model.arrive(0)

    @precondition(lambda self: self.model.living())
    @rule(data=st.data(), steps=st.integers(1, 8))
    def sender_runs(self, data: st.DataObject, steps: int) -> None:
        number = data.draw(st.sampled_from(self.model.living()))
        for _ in range(steps):
            self.model.send(number)

    @precondition(lambda self: self.model.living())
    @rule(data=st.data(), steps=st.integers(1, 4))
    def reader_runs(self, data: st.DataObject, steps: int) -> None:
        number = data.draw(st.sampled_from(self.model.living()))
        for _ in range(steps):
            self.model.read_ahead(number)

    @rule(data=st.data(), count=st.integers(1, 8))
    def frames_are_applied(self, data: st.DataObject, count: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.model.streams)))
        for _ in range(count):
            self.model.deliver(number)

    @precondition(lambda self: self.model.living())
    @rule(data=st.data())
    def acknowledgement_arrives(self, data: st.DataObject) -> None:
        self.model.acknowledge(data.draw(st.sampled_from(self.model.living())))

    @precondition(lambda self: self.model.living())
    @rule(data=st.data())
    def stream_dies(self, data: st.DataObject) -> None:
        self.model.kill_stream(data.draw(st.sampled_from(self.model.living())))

    @precondition(lambda self: len(self.model.living()) < 3)
    @rule()
    def stream_opens(self) -> None:
        self.model.open_stream()

    @rule(seconds=st.sampled_from([0.5, 2.5]))
    def time_passes(self, seconds: float) -> None:
        self.model.tick(seconds)

    @invariant()
    def settled_regions_are_equal(self) -> None:
        self.model.check()

    def teardown(self) -> None:
        self.model.finish()


class PacedMachine(MoverMachine):
    """Streams of known and changing speed, which bounds what each is given."""

    @precondition(lambda self: self.model.living())
    @rule(data=st.data(), pace=st.sampled_from([None, 1.0, 20.0, 1000.0]), round_trip=st.sampled_from([0.0, 2.0]))
    def stream_is_so_fast(self, data: st.DataObject, pace: float | None, round_trip: float) -> None:
        state = self.model.dispatcher.streams[data.draw(st.sampled_from(self.model.living()))]
        state.pace, state.round_trip = pace, round_trip


class RestartMachine(MoverMachine):
    """The same with an agent that dies and goes on. Apart, because whoever dies often never comes to much else."""

    @rule()
    def agent_keeps_a_checkpoint(self) -> None:
        self.model.checkpoint()

    @rule(writes=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 71), st.integers(0, 255)), max_size=3))
    def agent_is_restarted(self, writes: list[tuple[int, int, int]]) -> None:
        self.model.restart([(disk, offset % self.disks[disk].size, fill) for disk, offset, fill in writes])


PROFILE = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True,
)  # fmt: skip


@pytest.fixture(autouse=True)
def real_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model shrinks these; put them back after each test."""
    for name in ("CHUNK", "ZERO_GRAIN", "SMALL", "EDGE"):
        monkeypatch.setattr(bulk_copy, name, getattr(bulk_copy, name))


def test_no_order_of_events_loses_or_reorders_a_write() -> None:
    run_state_machine_as_test(MoverMachine, settings=PROFILE)


def test_disks_that_take_turns_and_are_not_blank_lose_nothing_either() -> None:
    run_state_machine_as_test(type("Turns", (MoverMachine,), {"disks": TURNS}), settings=PROFILE)


def test_no_restart_of_the_agent_loses_a_write() -> None:
    run_state_machine_as_test(RestartMachine, settings=PROFILE)


def find_defect(
    make: Callable[..., Dispatcher],
    model: type[MoverModel] = MoverModel,
    disks: list[DiskTerms] = DISKS,
    more: Sequence[Event] = (),
) -> None:
    """A walk over the model must fail with the planted bug that `make` or `model` builds in.

    Walks, not the machine: what Hypothesis generates is another thing whenever a constant of the code changes, and so
    it could miss by chance what it found the day before.
    """
    with pytest.raises((AssertionError, KeyError)):
        for seed in range(WALKS):
            walk(model(disks, make), random.Random(seed), more)


def with_regions(planted: type[RegionMap]) -> Callable[..., Dispatcher]:
    """A dispatcher whose region maps are of the planted kind."""

    def make(disks: list[DiskTerms], region_size: int, limits: Limits) -> Dispatcher:
        dispatcher = Dispatcher(disks, region_size, limits)
        for number, disk in enumerate(disks):
            dispatcher.disks[number] = DiskState(planted(number, disk.size, region_size, disk.blank))
            if disk.kept:
                dispatcher.disks[number].regions.restore(disk.kept)
        return dispatcher

    return make


def test_a_mirrored_write_sent_before_the_bulk_data_of_its_region_is_found() -> None:
    class Planted(RegionMap):
        def verdict(self, region: int) -> Verdict:
            is_copying = self.state(region) is RegionState.COPYING
            return Verdict.FORWARD if is_copying else super().verdict(region)

    find_defect(with_regions(Planted))


def test_a_region_that_becomes_copying_only_after_its_read_is_found() -> None:
    class Planted(RegionMap):
        def verdict(self, region: int) -> Verdict:
            copy = self.copies.get(region)
            return Verdict.IGNORE if copy is not None and not copy.handed else super().verdict(region)

    find_defect(with_regions(Planted))


def test_holes_looked_up_before_writes_are_tracked_are_found() -> None:
    class Early(ModelDisk):
        def extents(self, start: int, end: int) -> Iterator[Extent]:
            for at, size, _ in super().extents(start, end):
                yield Extent(at, size, False)  # as the disk was before its first write

    class Planted(MoverModel):
        disk_type = Early

    find_defect(Dispatcher, Planted)


def test_an_unaligned_edge_cut_off_is_found() -> None:
    class Planted(RegionMap):
        def pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
            for region, start, size in super().pieces(offset, length):
                yield region, start, size - size % 4

    find_defect(with_regions(Planted))


def test_zeroes_that_overtake_a_write_are_found() -> None:
    class Planted(Dispatcher):
        def _enqueue(self, stream: int, piece: WritePiece) -> None:
            super()._enqueue(stream, piece)
            if piece.payload is None:
                self.streams[stream].queue.rotate(1)

    find_defect(Planted)


def test_a_dead_stream_of_which_only_the_queue_is_given_back_is_found() -> None:
    class Planted(Dispatcher):
        def lose_stream(self, stream: int) -> None:
            self.streams[stream].in_flight.clear()
            for disk in self.disks:
                for region, pin in list(disk.regions.pins.items()):
                    if pin.stream == stream and region not in disk.regions.copies:
                        queued = [p for p in self.streams[stream].queue if p.region == region]
                        if not queued:
                            del disk.regions.pins[region]
            super().lose_stream(stream)

    find_defect(Planted)


def test_an_acknowledgement_taken_for_more_than_it_says_is_found() -> None:
    class Planted(Dispatcher):
        def acknowledged(self, stream: int, count: int) -> None:
            state = self.streams[stream]
            before = state.acknowledged
            super().acknowledged(stream, before + len(state.in_flight))
            state.acknowledged = count

    find_defect(Planted)


def test_a_region_that_is_copied_too_early_is_found() -> None:
    class Planted(RegionMap):
        def bulk_handed(self, copy: RegionCopy) -> None:
            if not copy.abandoned and copy.unacknowledged:
                for _ in range(copy.unacknowledged):
                    self.unpin(copy.region)
                copy.unacknowledged = 0
            super().bulk_handed(copy)

        def frame_acknowledged(self, copy: RegionCopy) -> None:
            if copy.unacknowledged:
                super().frame_acknowledged(copy)

    find_defect(with_regions(Planted))


def test_a_dead_stream_that_is_not_fenced_is_found() -> None:
    class Planted(Dispatcher):
        def lose_stream(self, stream: int) -> None:
            super().lose_stream(stream)
            for disk in self.disks:
                disk.regions.fenced(stream)
            self._to_fence.clear()

    find_defect(Planted)


def test_a_dropped_write_whose_region_is_not_copied_again_is_found() -> None:
    class Planted(Dispatcher):
        def _drop(self, piece: WritePiece) -> None:
            disk = self.disks[piece.write.disk]
            disk.buffered -= piece.weight
            disk.regions.unpin(piece.region)
            self._release(piece.write)

    find_defect(Planted)


def test_a_discard_of_copied_data_that_is_passed_over_is_found() -> None:
    class Planted(Dispatcher):
        def unspecified(self, disk: int, extent: tuple[int, int]) -> None:
            pass

    find_defect(Planted)


def test_a_write_from_before_a_discard_that_is_sent_behind_the_new_copy_is_found() -> None:
    class Planted(Dispatcher):
        def _drop_queued(self, disk: DiskState, region: int) -> None:
            pass

    find_defect(Planted)


def test_a_write_queued_before_a_discard_is_dropped_with_its_region() -> None:
    dispatcher = Dispatcher([DiskTerms(64)], 16, Limits(high_mark=24, low_mark=8, budget=2.0))
    dispatcher.copying = True
    dispatcher.add_stream(0)
    for _ in range(4):
        copy = dispatcher.claim_region(0)
        assert copy is not None
        dispatcher.bulk_handed(copy)
    assert dispatcher.mirrored(0, (14, 4), b"abcd", 1, 0.0), "no guest waits in asynchronous mode"
    dispatcher.unspecified(0, (16, 1))
    taken = dispatcher.take_writes(0, 64)
    assert [(piece.region, piece.offset) for piece in taken] == [(0, 14)]
    again = dispatcher.claim_region(0)
    assert again is not None
    assert again.region == 1


def test_a_guest_that_is_not_answered_when_its_write_is_dropped_is_found() -> None:
    class Planted(Dispatcher):
        def _drop(self, piece: WritePiece) -> None:
            piece.write.parts += 1
            answered, piece.write.answered = piece.write.answered, True
            super()._drop(piece)
            piece.write.answered = answered

        def _change_mode(self, disk: DiskState, event: ForwardEvent) -> None:
            waiting = dict(disk.waiting)
            super()._change_mode(disk, event)
            if event in (ForwardEvent.LATE, ForwardEvent.STREAMS_LOST):
                self._answers.clear()
                disk.waiting.update({cookie: write for cookie, write in waiting.items() if not write.parts < 0})

    find_defect(Planted)


def test_streams_of_any_speed_lose_nothing_and_never_all_stand_back() -> None:
    run_state_machine_as_test(PacedMachine, settings=PROFILE)

    class Planted(Dispatcher):
        def _may_take(self, stream: int) -> bool:
            return self.streams[stream].pace is None

    find_defect(Planted, more=PACED)


def test_holes_sent_as_nothing_on_a_second_visit_are_found() -> None:
    class Planted(RegionMap):
        def begin_copy(self, stream: int) -> RegionCopy | None:
            copy = super().begin_copy(stream)
            if copy is not None:
                copy.untouched = True
            return copy

    find_defect(with_regions(Planted))


def test_a_disk_that_is_taken_for_blank_and_is_not_is_found() -> None:
    def make(disks: list[DiskTerms], region_size: int, limits: Limits) -> Dispatcher:
        return Dispatcher([replace(disk, blank=True) for disk in disks], region_size, limits)

    find_defect(make, disks=TURNS)


def test_disks_that_take_no_turns_are_found() -> None:
    def make(disks: list[DiskTerms], region_size: int, limits: Limits) -> Dispatcher:
        return Dispatcher([replace(disk, places=frozenset()) for disk in disks], region_size, limits)

    find_defect(make, disks=TURNS)


def test_a_turn_that_does_not_come_back_with_a_region_is_found() -> None:
    class Planted(Dispatcher):
        def _note_turn(self, disk: DiskState) -> None:
            if disk.regions.all_copied():
                super()._note_turn(disk)

    find_defect(Planted, disks=TURNS)


def test_a_restarted_agent_that_does_not_read_what_the_guest_wrote_is_found() -> None:
    class Planted(MoverModel):
        def take_up(self) -> list[tuple[int, int, int]]:
            self.turned = len(self.record)
            return []

    find_defect(Dispatcher, Planted, more=RESTARTED)


def test_a_record_that_is_read_from_its_last_turn_and_not_from_the_checkpoint_is_found() -> None:
    class Planted(MoverModel):
        def take_up(self) -> list[tuple[int, int, int]]:
            before, self.turned = self.turned, len(self.record)
            return self.record[before:]

    find_defect(Dispatcher, Planted, more=RESTARTED)


def test_a_write_to_a_region_of_which_a_part_is_copied_again_that_is_not_noted_is_found() -> None:
    class Planted(RegionMap):
        def ignored(self, region: int, span: tuple[int, int]) -> None:
            pass

    find_defect(with_regions(Planted))


def test_a_lost_write_in_flight_that_is_not_copied_again_is_found() -> None:
    class Planted(Dispatcher):
        def _return_region(self, disk: DiskState, region: int, span: tuple[int, int] | None = None) -> None:
            if span is None or region not in disk.regions.pins or disk.regions.copies.get(region) is not None:
                super()._return_region(disk, region, span)

    find_defect(Planted)


def test_a_block_too_few_that_is_copied_again_is_found() -> None:
    class Planted(RegionMap):
        def _mask(self, offset: int, length: int) -> int:
            return super()._mask(offset, max(length - 1, 1))

    find_defect(with_regions(Planted))


def test_at_rest_is_only_what_nothing_is_on_its_way_of() -> None:
    dispatcher = Dispatcher([DiskTerms(64)], 16, Limits(high_mark=24, low_mark=8, budget=2.0))
    dispatcher.copying = True
    dispatcher.add_stream(0)
    for _ in range(3):
        copy = dispatcher.claim_region(0)
        assert copy is not None
        dispatcher.bulk_handed(copy)
    dispatcher.mirrored(0, (16, 4), b"abcd", 1, 0.0)
    assert dispatcher.disks[0].regions.at_rest() == b"\1\0\1\0"


def test_only_what_was_written_meanwhile_is_copied_again() -> None:
    dispatcher = Dispatcher([DiskTerms(64)], 16, Limits(high_mark=24, low_mark=8, budget=2.0))
    dispatcher.copying = True
    dispatcher.add_stream(0)
    while (copy := dispatcher.claim_region(0)) is not None:
        dispatcher.bulk_handed(copy)
    dispatcher.lose_stream(0)
    dispatcher.mirrored(0, (18, 2), b"ab", 1, 0.0)
    dispatcher.mirrored(0, (25, 1), b"c", 2, 0.0)
    dispatcher.add_stream(1)
    again = dispatcher.claim_region(1)
    assert again is not None
    assert list(again.spans()) == [(18, 20), (25, 26)]
    assert dispatcher.disks[0].regions.returned == 3
