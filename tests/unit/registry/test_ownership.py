"""The rules of ownership, one by one, and against random actors with stale views and repeated, reordered requests."""

from typing import NamedTuple
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvmove.errors import Busy, InvalidInput, KvmoveError, NotAllowed
from kvmove.model.ownership import Ownership, OwnershipState
from kvmove.registry import ownership
from kvmove.registry.ownership import Event

VM = UUID(int=7)
HOSTS = ("h1", "h2", "h3")
OWNED = Ownership(vm=VM, owner="h1", epoch=4)
MOVING = Ownership(vm=VM, owner="h1", epoch=4, state=OwnershipState.MOVING, move_id="m1", destination="h2")


def test_a_move_that_is_committed_makes_the_destination_the_owner() -> None:
    assert ownership.begin(OWNED, "m1", "h2") == MOVING
    assert ownership.commit(MOVING, "m1", "h2") == Ownership(vm=VM, owner="h2", epoch=5)


def test_a_move_that_is_aborted_leaves_the_owner_and_takes_a_new_epoch() -> None:
    assert ownership.abort(MOVING, "m1") == Ownership(vm=VM, owner="h1", epoch=5)


def test_a_destination_gives_back_under_a_new_epoch() -> None:
    committed = ownership.commit(MOVING, "m1", "h2")
    assert ownership.take_back(committed, "h1") == Ownership(vm=VM, owner="h1", epoch=6)


def test_events_at_the_wrong_time_are_refused() -> None:
    with pytest.raises(Busy, match="cannot begin"):
        ownership.begin(MOVING, "m2", "h3")
    with pytest.raises(Busy, match="where it is"):
        ownership.begin(OWNED, "m1", "h1")
    with pytest.raises(Busy):
        ownership.commit(MOVING, "m2", "h2")
    with pytest.raises(Busy):
        ownership.commit(MOVING, "m1", "h3")
    with pytest.raises(Busy):
        ownership.commit(OWNED, "m1", "h2")
    with pytest.raises(Busy):
        ownership.abort(OWNED, "m1")
    with pytest.raises(Busy):
        ownership.abort(MOVING, "m2")
    with pytest.raises(Busy):
        ownership.take_back(MOVING, "h2")
    with pytest.raises(Busy):
        ownership.take_back(OWNED, "h1")


@pytest.mark.parametrize(
    ("old", "new", "event", "holder"),
    [
        (OWNED, MOVING, Event.BEGIN, "h1"),
        (MOVING, ownership.commit(MOVING, "m1", "h2"), Event.COMMIT, "h2"),
        (MOVING, ownership.abort(MOVING, "m1"), Event.ABORT, "h1"),
        (OWNED, ownership.take_back(OWNED, "h3"), Event.TAKE_BACK, "h1"),
    ],
)
def test_each_event_is_the_right_of_one_host(old: Ownership, new: Ownership, event: Event, holder: str) -> None:
    assert ownership.event_between(old, new) is event
    assert ownership.legal(old, new)
    ownership.check_right(holder, old, new)
    for other in set(HOSTS) - {holder}:
        with pytest.raises(NotAllowed, match=f"for {holder} to do"):
            ownership.check_right(other, old, new)


RECORDS = st.builds(
    Ownership,
    vm=st.sampled_from([VM, UUID(int=8)]),
    owner=st.sampled_from(HOSTS),
    epoch=st.integers(1, 3),
    state=st.sampled_from(OwnershipState),
    move_id=st.sampled_from([None, "m1", "m2"]),
    destination=st.sampled_from([None, *HOSTS]),
)


@given(old=RECORDS, new=RECORDS)
@settings(max_examples=2000)
def test_whatever_is_called_legal_keeps_epochs_and_owners_straight(old: Ownership, new: Ownership) -> None:
    """The rules again, written from the other end."""
    if not ownership.legal(old, new):
        with pytest.raises(InvalidInput):
            ownership.compare_and_swap(old, old, new)
        return
    assert new.vm == old.vm
    assert new.epoch - old.epoch == (0 if new.state is OwnershipState.MOVING else 1)
    if new.epoch == old.epoch:
        assert new.owner == old.owner and old.state is OwnershipState.OWNED
    if new.state is OwnershipState.OWNED:
        assert new.move_id is None and new.destination is None
    else:
        assert new.move_id and new.destination and new.destination != new.owner
    if old.state is OwnershipState.MOVING:
        assert new.owner in {old.owner, old.destination}
    assert ownership.compare_and_swap(old, old, new) == new


def test_a_claim_is_for_a_vm_without_an_owner_or_for_the_owner() -> None:
    assert ownership.claim(None, VM, "h1") == Ownership(vm=VM, owner="h1", epoch=1)
    assert ownership.claim(None, VM, "h1", last_epoch=9).epoch == 10
    assert ownership.claim(MOVING, VM, "h1") == MOVING
    with pytest.raises(Busy, match="h2 cannot claim"):
        ownership.claim(MOVING, VM, "h2")


def test_a_vm_that_moves_is_not_released() -> None:
    ownership.check_release(OWNED, OWNED)
    with pytest.raises(Busy, match="cannot be released"):
        ownership.check_release(MOVING, MOVING)
    with pytest.raises(Busy, match="expected was"):
        ownership.check_release(MOVING, OWNED)
    with pytest.raises(Busy, match="not registered"):
        ownership.check_release(None, OWNED)


class Request(NamedTuple):
    """A swap on its way to the registry: sent by `host`, with what it believed when it sent."""

    host: str
    expected: Ownership
    new: Ownership


class Actors(RuleBasedStateMachine):
    """Three hosts ask from views of any age; requests arrive late, twice, in any order, some forged, some never."""

    def __init__(self) -> None:
        super().__init__()
        self.stored = ownership.first(VM, "h1")
        self.seen = [self.stored]  # all records there ever were: any of them may be someone's stale view
        self.requests: list[Request] = []
        self.owner_of = {self.stored.epoch: self.stored.owner}
        self.outcome: dict[str, Event] = {}
        self.moves = 0

    def _ask(self, host: str, old: Ownership, new: Ownership) -> None:
        self.requests.append(Request(host, old, new))

    @rule(data=st.data(), host=st.sampled_from(HOSTS), destination=st.sampled_from(HOSTS))
    def ask_begin(self, data: st.DataObject, host: str, destination: str) -> None:
        view = data.draw(st.sampled_from(self.seen))
        self.moves += 1
        try:
            self._ask(host, view, ownership.begin(view, f"m{self.moves}", destination))
        except Busy:
            assert view.state is OwnershipState.MOVING or destination == view.owner

    @rule(data=st.data(), host=st.sampled_from(HOSTS), event=st.sampled_from([Event.COMMIT, Event.ABORT]))
    def ask_end(self, data: st.DataObject, host: str, event: Event) -> None:
        view = data.draw(st.sampled_from(self.seen))
        try:
            if event is Event.COMMIT:
                self._ask(host, view, ownership.commit(view, str(view.move_id), host))
            else:
                self._ask(host, view, ownership.abort(view, str(view.move_id)))
        except Busy:
            assert view.state is OwnershipState.OWNED or host != view.destination

    @rule(data=st.data(), host=st.sampled_from(HOSTS), source=st.sampled_from(HOSTS))
    def ask_take_back(self, data: st.DataObject, host: str, source: str) -> None:
        view = data.draw(st.sampled_from(self.seen))
        try:
            self._ask(host, view, ownership.take_back(view, source))
        except Busy:
            assert view.state is OwnershipState.MOVING or view.owner == source

    @rule(host=st.sampled_from(HOSTS), new=RECORDS)
    def forge(self, host: str, new: Ownership) -> None:
        self._ask(host, self.stored, new)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), keep=st.booleans())
    def deliver(self, data: st.DataObject, keep: bool) -> None:
        request = data.draw(st.sampled_from(self.requests))
        if not keep:
            self.requests.remove(request)
        before = self.stored
        try:
            ownership.check_right(request.host, request.expected, request.new)
            self.stored = ownership.compare_and_swap(before, request.expected, request.new)
        except KvmoveError:
            assert self.stored == before
            return
        self._check(before, self.stored, request.host)

    def _check(self, before: Ownership, after: Ownership, host: str) -> None:
        assert before in self.seen
        self.seen.append(after)
        assert after.epoch >= before.epoch
        assert self.owner_of.setdefault(after.epoch, after.owner) == after.owner, "two owners under one epoch"
        if before.state is OwnershipState.MOVING:
            end = Event.COMMIT if after.owner == before.destination else Event.ABORT
            assert host == (before.destination if end is Event.COMMIT else before.owner)
            assert self.outcome.setdefault(str(before.move_id), end) is end, "a move was both committed and aborted"
            assert after.epoch > before.epoch
        else:
            assert host == before.owner, "someone else than the owner began a move or gave the VM away"

    @invariant()
    def the_stored_record_is_sound(self) -> None:
        moving = self.stored.state is OwnershipState.MOVING
        assert moving is (self.stored.move_id is not None) is (self.stored.destination is not None)
        assert self.stored.epoch == max(self.owner_of)


TestActors = Actors.TestCase
TestActors.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
