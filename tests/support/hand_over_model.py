"""A small model of the hand-over, to be explored exhaustively: two agents, two QEMUs, a registry, a bad network.

It starts when the source's guest is paused at the switchover and the destination is loading the last memory. Every
message may be lost, repeated, late and out of order (sent messages lie in a set, from which they are delivered any
number of times or dropped); every read of the registry may be answered with any record that it ever held; agents die
and start again with nothing but their journals; QEMUs and hosts die.

The registry's decisions are those of `kvmove.registry.ownership`, not of this model. `flaws` plants mistakes, so that a
test can see that they are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from kvmove.errors import KvmoveError
from kvmove.model.ownership import Ownership, OwnershipState
from kvmove.registry import ownership

SOURCE, DESTINATION = "h1", "h2"
EPOCH = 4

MOVING = Ownership(
    vm=UUID(int=1), owner=SOURCE, epoch=EPOCH, state=OwnershipState.MOVING, move_id="m1", destination=DESTINATION
)
COMMITTED = ownership.commit(MOVING, "m1", DESTINATION)
RECORDS = {
    "moving": MOVING,
    "committed": COMMITTED,
    "aborted": ownership.abort(MOVING, "m1"),
    "taken back": ownership.take_back(COMMITTED, SOURCE),
}
HISTORY = {
    "moving": ("moving",),
    "committed": ("moving", "committed"),
    "aborted": ("moving", "aborted"),
    "taken back": ("moving", "committed", "taken back"),
}
"""What a late answer to a read may say, for each present record."""

SWAPS = {
    "commit": (MOVING, COMMITTED, DESTINATION),
    "abort": (MOVING, RECORDS["aborted"], SOURCE),
    "take back": (COMMITTED, RECORDS["taken back"], DESTINATION),
}


class Guest(StrEnum):
    LOADING = "loading"  # destination: memory is not complete
    PAUSED = "paused"  # complete, vCPUs stopped
    RUNNING = "running"
    ENDED = "ended"  # by its own QEMU's or host's death
    DISCARDED = "discarded"  # by its agent, on purpose


class Side(NamedTuple):
    """An agent and its QEMU. `view` is what the agent believes now and loses when it dies; `journal` stays."""

    up: bool
    view: str
    journal: str
    guest: Guest


class World(NamedTuple):
    """`ran_there`: whether the guest has ever run at the destination; `hurt`: hosts whose QEMU died by itself."""

    record: str
    source: Side
    destination: Side
    sent: frozenset[str]
    ran_there: bool
    hurt: frozenset[str]


class Step(NamedTuple):
    """`fault`: done by bad luck, not by a party that does its work."""

    name: str
    world: World
    fault: bool = False


START = World(
    record="moving",
    source=Side(True, "waiting", "", Guest.PAUSED),
    destination=Side(True, "waiting", "", Guest.LOADING),
    sent=frozenset(),
    ran_there=False,
    hurt=frozenset(),
)


@cache
def decide(stored: str, swap: str) -> str:
    """The record after a request reached the registry, by the product's own rules."""
    expected, new, host = SWAPS[swap]
    ownership.check_right(host, expected, new)
    try:
        after = ownership.compare_and_swap(RECORDS[stored], expected, new)
    except KvmoveError:
        return stored
    return next(name for name, record in RECORDS.items() if record == after)


def owner(record: str) -> str:
    return RECORDS[record].owner


class HandOver:
    """The parties' rules as `steps` of a world. A flaw is one rule left out."""

    def __init__(self, *flaws: str) -> None:
        self._flaws = frozenset(flaws)

    def steps(self, world: World) -> Iterator[Step]:
        """Everything that can happen next."""
        yield from self._registry(world)
        if world.source.up:
            yield from self._source(world)
        else:
            yield Step("the source's agent starts", self._source_starts(world))
        if world.destination.up:
            yield from self._destination(world)
        else:
            yield Step("the destination's agent starts", self._destination_starts(world))
        yield from self._faults(world)

    # The registry: requests that were sent arrive, once or more, or never.

    def _registry(self, world: World) -> Iterator[Step]:
        for swap in SWAPS:
            if swap in world.sent:
                yield Step(f"{swap} reaches the registry", world._replace(record=decide(world.record, swap)))

    # The source.

    def _source(self, world: World) -> Iterator[Step]:
        side = world.source
        if side.view == "waiting":
            yield Step("the source gives up before its word", self._source_resumes(world))
            if "ready" in world.sent:
                journal = "" if "yield is not journaled" in self._flaws else "yielded"
                yield Step("the source yields", _source(world, view="yielded", journal=journal))
        if side.view == "yielded":
            yield Step("the source sends the ticket", _send(world, "ticket"))
            yield Step("the source asks to abort", _send(world, "abort"))
            if "source resumes by timeout" in self._flaws:
                yield Step("the source resumes by timeout", self._source_resumes(world))
            yield from self._source_hears(world)
        if side.view == "resumed" and side.guest is Guest.PAUSED:
            yield Step("the source lets the guest run", _source(world, guest=Guest.RUNNING))
        if side.view == "resumed":
            yield Step("the source asks to abort", _send(world, "abort"))

    def _source_hears(self, world: World) -> Iterator[Step]:
        for record in HISTORY[world.record]:
            if RECORDS[record].epoch > EPOCH and owner(record) == SOURCE:
                yield Step(f"the source reads {record}", self._source_resumes(world))
            if record == "committed" and "source discards at commit" in self._flaws:
                yield Step("the source reads committed", _source(world, view="done", guest=Guest.DISCARDED))
        if "running" in world.sent:
            guest = Guest.DISCARDED if world.source.guest is Guest.PAUSED else world.source.guest
            yield Step("the source hears that it runs", _source(world, view="done", journal="done", guest=guest))

    def _source_resumes(self, world: World) -> World:
        """Its decision; letting the guest run is the next step, as the agent may die in between."""
        return _source(world, view="resumed", journal="resumed")

    def _source_starts(self, world: World) -> World:
        views = {"": "resumed", "yielded": "yielded", "resumed": "resumed", "done": "done"}
        journal = world.source.journal or "resumed"  # without its word nobody can have the ticket: the guest goes on
        return _source(world, up=True, view=views[world.source.journal], journal=journal)

    # The destination.

    def _destination(self, world: World) -> Iterator[Step]:
        side = world.destination
        if side.view == "waiting" and side.guest is Guest.LOADING:
            yield Step("the memory is complete", _destination(world, guest=Guest.PAUSED))
        if side.view == "waiting" and side.guest is Guest.PAUSED:
            yield Step("the destination is ready", _send(world, "ready"))
            if "ticket" in world.sent:
                early = "destination runs before the commit" in self._flaws
                view, journal = ("owning", "cont") if early else ("committing", side.journal)
                yield Step("the destination takes the ticket", _destination(world, view=view, journal=journal))
        if side.view == "committing":
            yield Step("the destination asks to commit", _send(world, "commit"))
            if "lost answer is failure" in self._flaws:
                yield Step("the destination takes silence for no", self._discard(world))
        if side.view in {"waiting", "committing"}:
            yield from self._destination_hears(world)
        if side.view == "owning":
            yield from self._destination_owns(world)

    def _destination_hears(self, world: World) -> Iterator[Step]:
        for record in HISTORY[world.record]:
            if owner(record) == DESTINATION:
                yield from self._destination_has_won(world)
            elif RECORDS[record].epoch > EPOCH:
                yield Step("the destination reads that it lost", self._discard(world))

    def _destination_has_won(self, world: World) -> Iterator[Step]:
        if world.destination.guest is Guest.PAUSED:
            yield Step("the destination intends to run it", _destination(world, view="owning", journal="cont"))
        elif "no take-back" not in self._flaws:
            yield Step("the destination gives back", _send(world, "take back"))

    def _destination_owns(self, world: World) -> Iterator[Step]:
        guest = world.destination.guest
        if guest is Guest.PAUSED:
            ran = world._replace(ran_there=True)
            yield Step("the destination lets the guest run", _destination(ran, guest=Guest.RUNNING))
        if guest is Guest.RUNNING:
            yield Step("the destination says that it runs", _send(world, "running"))
        if "take-back after intent" in self._flaws and guest is not Guest.LOADING:
            yield Step("the destination gives back what it ran", _send(world, "take back"))

    def _discard(self, world: World) -> World:
        return _destination(world, view="gone", journal="gone", guest=Guest.DISCARDED)

    def _destination_starts(self, world: World) -> World:
        views = {"": "waiting", "cont": "owning", "gone": "gone"}
        return _destination(world, up=True, view=views[world.destination.journal])

    # Bad luck.

    def _faults(self, world: World) -> Iterator[Step]:
        for message in sorted(world.sent):
            yield Step(f"{message} is lost", world._replace(sent=world.sent - {message}), fault=True)
        if world.source.up:
            yield Step("the source's agent dies", _source(world, up=False, view=""), fault=True)
        if world.destination.up:
            yield Step("the destination's agent dies", _destination(world, up=False, view=""), fault=True)
        alive = (Guest.LOADING, Guest.PAUSED, Guest.RUNNING)
        if world.source.guest in alive:
            hurt = world._replace(hurt=world.hurt | {SOURCE})
            yield Step("the source's QEMU dies", _source(hurt, guest=Guest.ENDED), fault=True)
            yield Step("the source's host dies", _source(hurt, guest=Guest.ENDED, up=False, view=""), fault=True)
        if world.destination.guest in alive:
            hurt = world._replace(hurt=world.hurt | {DESTINATION})
            yield Step("the destination's QEMU dies", _destination(hurt, guest=Guest.ENDED), fault=True)
            dead = _destination(hurt, guest=Guest.ENDED, up=False, view="")
            yield Step("the destination's host dies", dead, fault=True)


def _source(world: World, **changes: Any) -> World:
    return world._replace(source=world.source._replace(**changes))


def _destination(world: World, **changes: Any) -> World:
    return world._replace(destination=world.destination._replace(**changes))


def _send(world: World, message: str) -> World:
    return world._replace(sent=world.sent | {message})
