"""Which disks of a move are copied now: disks take turns, so that storage is read and written in order. Pure.

Each disk keeps some places busy: the datastore it is read from and the one it is written to. Disks that are copied at
once share no place, and there are MOST of them at most. The others wait; whenever there is room the first of them, in
the move's order, that finds its places free begins. So a later disk overtakes one whose places are busy, and no other.

A disk keeps its turn until it is complete. One that becomes incomplete again waits as the others do, so what began
meanwhile is not broken off, and no place is ever with two disks.

Deliberately not here: what complete means (region_map), and mirrored writes, which take no turns.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST = 4
"""Disks copied at once."""


class Turns:
    """`places` says for each disk what it keeps busy; all disks are incomplete at first. Not thread-safe.

    `now` has the numbers of the disks whose turn it is, in the move's order; it changes in `note` alone.
    """

    def __init__(self, places: Sequence[frozenset[str]]) -> None:
        self._places = places
        self._waiting = list(range(len(places)))
        self.now: tuple[int, ...] = ()
        self._fill()

    def note(self, disk: int, *, complete: bool) -> None:
        """`disk` is complete or is not; costs next to nothing when that was known."""
        if complete and disk in self.now:
            self.now = tuple(number for number in self.now if number != disk)
        elif complete and disk in self._waiting:
            self._waiting.remove(disk)
        elif complete or disk in self.now or disk in self._waiting:
            return
        else:
            self._waiting = sorted([*self._waiting, disk])
        self._fill()

    def _fill(self) -> None:
        for disk in list(self._waiting):
            if len(self.now) < MOST and all(self._places[disk].isdisjoint(self._places[other]) for other in self.now):
                self._waiting.remove(disk)
                self.now = tuple(sorted([*self.now, disk]))
