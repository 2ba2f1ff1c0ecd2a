"""Turns of disks against a plain model, in which each disk is waiting, copied or complete."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvmove.mover.turns import MOST, Turns

PLACES = st.frozensets(st.sampled_from("abcdef"), max_size=2)
DISKS = st.lists(PLACES, min_size=1, max_size=9)


class TurnsModel:
    """Says after each event which disks must be copied now."""

    def __init__(self, places: list[frozenset[str]]) -> None:
        self.places = places
        self.state = ["waiting"] * len(places)
        self.begin()

    def numbers(self, state: str) -> list[int]:
        return [number for number, now in enumerate(self.state) if now == state]

    def may_begin(self, disk: int) -> bool:
        busy = [self.places[other] for other in self.numbers("copied")]
        return len(busy) < 4 and not any(self.places[disk] & places for places in busy)

    def begin(self) -> None:
        for disk in range(len(self.places)):
            if self.state[disk] == "waiting" and self.may_begin(disk):
                self.state[disk] = "copied"

    def note(self, disk: int, *, complete: bool) -> None:
        if complete:
            self.state[disk] = "complete"
        elif self.state[disk] == "complete":
            self.state[disk] = "waiting"
        self.begin()


def check(turns: Turns, places: list[frozenset[str]], incomplete: set[int]) -> None:
    now = turns.now
    assert len(now) <= MOST
    assert set(now) <= incomplete, "a complete disk keeps no place"
    assert bool(now) == bool(incomplete), "there is always progress"
    for disk in now:
        assert not any(places[disk] & places[other] for other in now if other != disk), "one place, one disk"
    for disk in incomplete - set(now):
        assert len(now) == MOST or any(places[disk] & places[other] for other in now), "nobody waits for nothing"


@given(DISKS, st.data())
def test_no_place_is_with_two_disks_and_the_order_is_kept(places: list[frozenset[str]], data: st.DataObject) -> None:
    turns, model, incomplete = Turns(places), TurnsModel(places), set(range(len(places)))
    for _ in range(data.draw(st.integers(0, 30))):
        check(turns, places, incomplete)
        assert list(turns.now) == model.numbers("copied")
        disk, complete = data.draw(st.integers(0, len(places) - 1)), data.draw(st.booleans())
        before = set(turns.now)
        turns.note(disk, complete=complete)
        model.note(disk, complete=complete)
        incomplete = incomplete - {disk} if complete else incomplete | {disk}
        assert before - {disk} <= set(turns.now), "a turn is not taken away"


@given(DISKS)
def test_every_disk_gets_its_turn(places: list[frozenset[str]]) -> None:
    turns, done = Turns(places), []
    while turns.now:
        done.append(turns.now[0])
        turns.note(turns.now[0], complete=True)
    assert sorted(done) == list(range(len(places)))


def test_disks_of_one_datastore_go_one_after_the_other_and_others_beside_them() -> None:
    one, other = frozenset({"source:a", "destination:a"}), frozenset({"source:b", "destination:b"})
    turns = Turns([one, one, other])
    assert turns.now == (0, 2)
    turns.note(0, complete=True)
    assert turns.now == (1, 2)
    turns.note(0, complete=False)
    assert turns.now == (1, 2), "what came back waits"
    turns.note(1, complete=True)
    assert turns.now == (0, 2)


def test_a_place_read_from_may_be_written_to_by_another_disk() -> None:
    turns = Turns([frozenset({"source:a", "destination:b"}), frozenset({"source:b", "destination:a"})])
    assert turns.now == (0, 1)
