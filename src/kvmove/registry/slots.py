"""Admission slots: how much of each host, NIC and datastore is taken by moves, for all managers of one registry.

A slot is a name with a capacity in units (`host/h1`: 8); a holder (a move's id) takes units of several at once, or of
none. What the names mean and what a move costs is not known here. A manager's slots are under its lease, so its crash
frees them. Invariant: nothing that decides who may run a VM is under a lease; a lost slot stops no VM and no move, it
only lets another one start.

`Slots` is what the manager asks (`LeasedSlots`); `SlotStore` is what an engine keeps for it. The rules here are pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol

from kvmove.errors import InvalidInput

Units = Mapping[str, int]
"""Units by the name of the slot."""


class Want(NamedTuple):
    """`units` of a slot that has `capacity` of them in all."""

    units: int
    capacity: int


class Held(NamedTuple):
    """What one holder has, and under which lease."""

    holder: str
    lease: str
    units: Units


class Slots(Protocol):
    """The slots as one manager sees them. A holder's later request stands in place of its earlier one."""

    async def take(self, holder: str, wants: Mapping[str, Want]) -> bool:
        """Take all of `wants`, or nothing; False when one of them does not fit beside what others have.

        :raise InvalidInput: a want is not positive, or more than the slot's whole capacity.
        :raise Unreachable: the registry cannot tell; what it may have noted is taken back by itself.
        """

    async def keep(self, holder: str, units: Units) -> None:
        """Note what a move that runs already has, whether it fits or not: after a restart of the manager.

        :raise Unreachable: the registry cannot tell now; it is noted as soon as it can.
        """

    async def release(self, holder: str) -> None:
        """Give back all that `holder` has, which may be nothing. A registry that is away is told later."""

    async def taken(self) -> dict[str, dict[str, int]]:
        """Units by slot and holder, those of other managers as well. :raise Unreachable: it cannot tell."""

    async def close(self) -> None:
        """Let go of the connections. What is held stays until the lease ends: the moves go on too."""


class Outcome(StrEnum):
    """What became of a request."""

    TAKEN = "taken"
    FULL = "full"
    LEASE_LOST = "lease lost"


class SlotStore(Protocol):
    """Where an engine keeps holders and leases. Every method raises Unreachable when it cannot tell."""

    async def new_lease(self, seconds: float) -> str:
        """A lease that ends `seconds` after its last renewal, and what is held under it then too."""

    async def renew(self, lease: str) -> bool:
        """False: it has ended; nothing is held under it any more."""

    async def put(self, lease: str, holder: str, wants: Mapping[str, Want], *, anyway: bool) -> Outcome:
        """Note `wants` for `holder` in one step if all fit, or `anyway`."""

    async def drop(self, holder: str) -> None:
        """Forget what `holder` has."""

    async def held(self) -> list[Held]:
        """All holders of all leases that have not ended, by holder."""

    async def close(self) -> None:
        """Let go of files and connections. Later calls raise Unreachable."""


def fits(held: Iterable[Held], holder: str, wants: Mapping[str, Want]) -> bool:
    """Whether `wants` fit beside what others have; what `holder` has itself would be replaced."""
    others = [it for it in held if it.holder != holder]
    return all(
        sum(other.units.get(name, 0) for other in others) + want.units <= want.capacity for name, want in wants.items()
    )


def by_slot(held: Iterable[Held]) -> dict[str, dict[str, int]]:
    """Units by slot and holder."""
    slots: dict[str, dict[str, int]] = {}
    for it in held:
        for name, units in it.units.items():
            slots.setdefault(name, {})[it.holder] = units
    return slots


def units_of(wants: Mapping[str, Want]) -> dict[str, int]:
    """The units alone."""
    return {name: want.units for name, want in wants.items()}


def check_wants(wants: Mapping[str, Want]) -> None:
    """:raise InvalidInput: some want could never be given."""
    for name, want in wants.items():
        if want.units < 1:
            raise InvalidInput(f"{want.units} units of {name} are wanted; it must be one at least")
        if want.units > want.capacity:
            raise InvalidInput(f"{want.units} units of {name} are wanted, which has {want.capacity} in all")
