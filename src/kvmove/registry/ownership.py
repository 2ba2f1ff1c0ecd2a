"""The rules of ownership: which record may follow which, and whose right each change is. Pure.

    event      from             to                       by
    begin      OWNED(a, e)      MOVING(a, e, m, b)       the owner a
    commit     MOVING(a,e,m,b)  OWNED(b, e+1)            the destination b
    abort      MOVING(a,e,m,b)  OWNED(a, e+1)            the owner a
    take back  OWNED(b, e)      OWNED(a, e+1)            the owner b, in favour of a

Invariants: an epoch has one owner; an epoch never falls; of commit and abort of one move at most one happens, because
both leave the same record behind. Nothing expires, and no clock is read.

A take-back is the destination's own word that it has not let the VM run and never will. Nobody else can give it: a
destination that hangs could wake and go on.

It does not store anything; every engine of the registry calls `compare_and_swap` on what it has stored.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from kvmove.errors import Busy, InvalidInput, NotAllowed
from kvmove.model.ownership import Ownership, OwnershipState

FIRST_EPOCH = 1


class Event(StrEnum):
    BEGIN = "begin"
    COMMIT = "commit"
    ABORT = "abort"
    TAKE_BACK = "take back"


def first(vm: UUID, host: str, last_epoch: int = 0) -> Ownership:
    """The record of a VM without an owner. `last_epoch`: the last one of a former life under the same UUID, or 0."""
    return Ownership(vm=vm, owner=host, epoch=last_epoch + FIRST_EPOCH)


def begin(record: Ownership, move_id: str, destination: str) -> Ownership:
    """A move starts; the owner still runs the VM.

    :raise Busy: the VM moves already, or is at the destination already.
    """
    if record.state is not OwnershipState.OWNED:
        raise Busy(f"{describe(record)}; move {move_id} cannot begin", hint="wait until that move has ended")
    if destination == record.owner:
        raise Busy(f"{describe(record)}; it cannot move to where it is", hint="name another host")
    return Ownership(
        vm=record.vm,
        owner=record.owner,
        epoch=record.epoch,
        state=OwnershipState.MOVING,
        move_id=move_id,
        destination=destination,
    )


def commit(record: Ownership, move_id: str, destination: str) -> Ownership:
    """The destination becomes the owner.

    :raise Busy: the VM is not in this move to this destination (any more).
    """
    if not _moves(record, move_id) or record.destination != destination:
        raise Busy(f"{describe(record)}; {destination} cannot take it over by move {move_id}")
    return Ownership(vm=record.vm, owner=destination, epoch=record.epoch + 1)


def abort(record: Ownership, move_id: str) -> Ownership:
    """The owner keeps the VM, under a new epoch, so that a late commit finds nothing to build on.

    :raise Busy: the VM is not in this move (any more).
    """
    if not _moves(record, move_id):
        raise Busy(f"{describe(record)}; move {move_id} cannot be aborted")
    return Ownership(vm=record.vm, owner=record.owner, epoch=record.epoch + 1)


def take_back(record: Ownership, source: str) -> Ownership:
    """The owner, which has taken over and could not let the VM run, gives it back to `source`.

    :raise Busy: the VM moves, or `source` owns it.
    """
    if record.state is not OwnershipState.OWNED or record.owner == source:
        raise Busy(f"{describe(record)}; it cannot be given back to {source}")
    return Ownership(vm=record.vm, owner=source, epoch=record.epoch + 1)


def event_between(old: Ownership, new: Ownership) -> Event | None:
    """The event that turns `old` into `new`; None when none does."""
    candidates: list[tuple[Event, Ownership]] = []
    if old.state is OwnershipState.MOVING:
        if old.move_id is None or old.destination is None:
            return None
        candidates = [
            (Event.COMMIT, commit(old, old.move_id, old.destination)),
            (Event.ABORT, abort(old, old.move_id)),
        ]
    elif new.state is OwnershipState.MOVING:
        if new.move_id and new.destination and new.destination != old.owner:
            candidates = [(Event.BEGIN, begin(old, new.move_id, new.destination))]
    elif new.owner != old.owner:
        candidates = [(Event.TAKE_BACK, take_back(old, new.owner))]
    return next((event for event, record in candidates if record == new), None)


def legal(old: Ownership, new: Ownership) -> bool:
    """Whether some event turns `old` into `new`."""
    return event_between(old, new) is not None


def right_holder(old: Ownership, new: Ownership) -> str:
    """The host whose right it is to turn `old` into `new`.

    :raise InvalidInput: it is nobody's.
    """
    event = event_between(old, new)
    if event is None:
        raise InvalidInput(f"no event turns [{describe(old)}] into [{describe(new)}]")
    return str(old.destination) if event is Event.COMMIT else old.owner


def check_right(host: str, old: Ownership, new: Ownership) -> None:
    """See that `host` may turn `old` into `new`.

    :raise NotAllowed: it is another host's right.
    :raise InvalidInput: it is nobody's.
    """
    holder = right_holder(old, new)
    if host != holder:
        raise NotAllowed(f"{host} may not {event_between(old, new)} VM {old.vm}; that is for {holder} to do")


def compare_and_swap(stored: Ownership | None, expected: Ownership, new: Ownership) -> Ownership:
    """What to store in place of `stored`: `new`, when `stored` is `expected` and the change is legal.

    :raise InvalidInput: the change is never legal.
    :raise Busy: `stored` is another record, or there is none; `detail` says which.
    """
    right_holder(expected, new)
    check_unchanged(stored, expected)
    return new


def claim(stored: Ownership | None, vm: UUID, host: str, last_epoch: int = 0) -> Ownership:
    """The record after `host` claimed `vm`: a first one, or the one there is when the host owns it already.

    :raise Busy: another host owns it.
    """
    if stored is None:
        return first(vm, host, last_epoch)
    if stored.owner != host:
        raise Busy(f"{describe(stored)}; {host} cannot claim it", hint="move it, or delete it there first")
    return stored


def check_release(stored: Ownership | None, expected: Ownership) -> None:
    """See that the VM may be forgotten.

    :raise Busy: it moves, or its record is another than `expected`.
    """
    check_unchanged(stored, expected)
    if expected.state is OwnershipState.MOVING:
        raise Busy(f"{describe(expected)}; it cannot be released", hint="wait until the move has ended, or cancel it")


def check_unchanged(stored: Ownership | None, expected: Ownership) -> None:
    """:raise Busy: `stored` is not `expected`."""
    if stored is None:
        raise Busy(f"VM {expected.vm} is not registered (any more); expected was [{describe(expected)}]")
    if stored != expected:
        raise Busy(f"{describe(stored)}; expected was [{describe(expected)}]")


def describe(record: Ownership) -> str:
    """The record for people."""
    text = f"VM {record.vm} is owned by {record.owner} under epoch {record.epoch}"
    if record.state is OwnershipState.MOVING:
        text += f" and moves to {record.destination} (move {record.move_id})"
    return text


def _moves(record: Ownership, move_id: str) -> bool:
    return record.state is OwnershipState.MOVING and record.move_id == move_id
