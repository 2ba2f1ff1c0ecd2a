"""The phases of a move: what may follow what, what a failure leads to, and where the VM is meanwhile. Pure.

A move's course is its phase together with how far the hand-over has come:

    HELD       the source owns the VM; nothing was given away
    YIELDED    the source has given its word in its journal; source and destination may each win the registry's swap
    COMMITTED  the destination won: it owns the VM
    RETURNED   the source won (abort), or the destination gave back (take-back): the source owns the VM again

    phase           hand-over                    a failure leads to
    PREPARING       HELD                         ABORTING
    COPYING_DISKS   HELD                         ABORTING
    COPYING_MEMORY  HELD                         ABORTING
    SWITCHING_OVER  HELD, RETURNED               ABORTING
    SWITCHING_OVER  YIELDED                      IN_DOUBT: the registry must be read
    SWITCHING_OVER  COMMITTED                    SWITCHING_OVER: the destination has still to say that it runs
    IN_DOUBT        YIELDED                      IN_DOUBT: read again
    CLEANING_UP     COMMITTED                    CLEANING_UP: the outcome stands; clean up again
    ABORTING        HELD, RETURNED               ABORTING: undo again

Invariant: ABORTED is reached only while the source owns the VM, COMPLETED only after the destination does. A failure is
not the end of a VM: LOST is for a VM whose own QEMU ended.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from kvmove.errors import NeedsAttention
from kvmove.model.move import Phase
from kvmove.model.vm import Power


class HandOver(StrEnum):
    """How far the hand-over of a move has come; see the head of this file."""

    HELD = "held"
    YIELDED = "yielded"
    COMMITTED = "committed"
    RETURNED = "returned"


class Course(NamedTuple):
    """Where a move is. Starts as `Course()`; changes by `enter` and `hand_over` alone."""

    phase: Phase = Phase.PREPARING
    handed: HandOver = HandOver.HELD


_COPYING = (Phase.PREPARING, Phase.COPYING_DISKS, Phase.COPYING_MEMORY)

ENDED = frozenset({Phase.COMPLETED, Phase.ABORTED, Phase.LOST})
"""Phases that nothing follows. IN_DOUBT is none: it lasts until the registry has been read."""

FOLLOWERS: dict[Phase, frozenset[Phase]] = {
    Phase.PREPARING: frozenset(
        {Phase.COPYING_DISKS, Phase.COPYING_MEMORY, Phase.SWITCHING_OVER, Phase.ABORTING, Phase.LOST}
    ),
    Phase.COPYING_DISKS: frozenset({Phase.COPYING_MEMORY, Phase.SWITCHING_OVER, Phase.ABORTING, Phase.LOST}),
    Phase.COPYING_MEMORY: frozenset({Phase.SWITCHING_OVER, Phase.ABORTING, Phase.LOST}),
    Phase.SWITCHING_OVER: frozenset({Phase.CLEANING_UP, Phase.IN_DOUBT, Phase.ABORTING, Phase.LOST}),
    Phase.IN_DOUBT: frozenset({Phase.SWITCHING_OVER, Phase.LOST}),
    Phase.CLEANING_UP: frozenset({Phase.COMPLETED}),
    Phase.ABORTING: frozenset({Phase.ABORTED, Phase.LOST}),
    Phase.COMPLETED: frozenset(),
    Phase.ABORTED: frozenset(),
    Phase.LOST: frozenset(),
}
"""What may follow what. A host move goes from PREPARING to COPYING_MEMORY; a storage move, and any move of a VM that is
off, passes over COPYING_MEMORY."""

_HANDED: dict[Phase, frozenset[HandOver]] = {
    Phase.PREPARING: frozenset({HandOver.HELD}),
    Phase.COPYING_DISKS: frozenset({HandOver.HELD}),
    Phase.COPYING_MEMORY: frozenset({HandOver.HELD}),
    Phase.SWITCHING_OVER: frozenset(HandOver),
    Phase.IN_DOUBT: frozenset({HandOver.YIELDED}),
    Phase.CLEANING_UP: frozenset({HandOver.COMMITTED}),
    Phase.COMPLETED: frozenset({HandOver.COMMITTED}),
    Phase.ABORTING: frozenset({HandOver.HELD, HandOver.RETURNED}),
    Phase.ABORTED: frozenset({HandOver.HELD, HandOver.RETURNED}),
    Phase.LOST: frozenset(HandOver),
}

_HAND_OVERS: dict[HandOver, frozenset[HandOver]] = {
    HandOver.HELD: frozenset({HandOver.YIELDED, HandOver.RETURNED}),
    HandOver.YIELDED: frozenset({HandOver.COMMITTED, HandOver.RETURNED}),
    HandOver.COMMITTED: frozenset({HandOver.RETURNED}),
    HandOver.RETURNED: frozenset(),
}


def may_enter(course: Course, phase: Phase) -> bool:
    """Whether `phase` may come next."""
    return phase in FOLLOWERS[course.phase] and course.handed in _HANDED[phase]


def enter(course: Course, phase: Phase) -> Course:
    """The course in its next phase.

    :raise NeedsAttention: this phase cannot come now; the table in the head of this file says which can.
    """
    if not may_enter(course, phase):
        raise NeedsAttention(f"a move that is {describe(course)} cannot be {phase} next")
    return course._replace(phase=phase)


def may_hand_over(course: Course, handed: HandOver) -> bool:
    """Whether the hand-over may go to `handed` now: only during the switchover, in doubt, or while undoing."""
    if handed not in _HAND_OVERS[course.handed]:
        return False
    if course.phase is Phase.IN_DOUBT:
        return True  # the answer ends the doubt; `hand_over` moves the phase along
    return course.phase in {Phase.SWITCHING_OVER, Phase.ABORTING} and handed in _HANDED[course.phase]


def hand_over(course: Course, handed: HandOver) -> Course:
    """The course after the hand-over went on. An answer in doubt ends the doubt: back to SWITCHING_OVER.

    :raise NeedsAttention: the hand-over cannot go there now.
    """
    if not may_hand_over(course, handed):
        raise NeedsAttention(f"the hand-over of a move that is {describe(course)} cannot become {handed}")
    phase = Phase.SWITCHING_OVER if course.phase is Phase.IN_DOUBT else course.phase
    return Course(phase, handed)


def after_failure(course: Course) -> Phase:
    """The phase that a failed step leads to, which may be the present one: then the step is done again.

    The same goes for an agent that starts and finds this course in its journal.

    :raise NeedsAttention: the move has ended.
    """
    if course.phase in ENDED:
        raise NeedsAttention(f"a move that is {describe(course)} cannot fail any more")
    if course.phase in _COPYING:
        return Phase.ABORTING
    if course.phase is not Phase.SWITCHING_OVER:
        return course.phase
    if course.handed is HandOver.YIELDED:
        return Phase.IN_DOUBT
    return Phase.SWITCHING_OVER if course.handed is HandOver.COMMITTED else Phase.ABORTING


def outcome_of_failure(course: Course) -> Phase:
    """What a failure now makes of the whole move: ABORTED, IN_DOUBT, or COMPLETED when it is past the commit."""
    if course.handed is HandOver.COMMITTED:
        return Phase.COMPLETED
    return Phase.IN_DOUBT if course.handed is HandOver.YIELDED else Phase.ABORTED


def may_cancel(course: Course) -> bool:
    """Whether an operator can still call the move off. Once the source has yielded it is too late."""
    return course.handed is HandOver.HELD and course.phase in {*_COPYING, Phase.SWITCHING_OVER}


def source_owns(course: Course) -> bool | None:
    """Whether the source owns the VM; None while only the registry knows."""
    if course.handed is HandOver.YIELDED:
        return None
    return course.handed is not HandOver.COMMITTED


def whereabouts(course: Course, source: str, destination: str, power: Power = Power.RUNNING) -> str:
    """Where the VM is, for people: `running on h1`. `power` is how it moves."""
    if course.phase is Phase.LOST:
        host = destination if course.handed is HandOver.COMMITTED else source
        return f"not running: its QEMU ended; it belongs to {host} and can be started there"
    if course.phase in {Phase.CLEANING_UP, Phase.COMPLETED}:
        return f"{power} on {destination}"
    if course.phase is Phase.IN_DOUBT:
        return (
            f"{_standing(power)} on {source} and {destination}: the registry decides where it goes on, and does not "
            "answer; it goes on by itself once the registry does"
        )
    if course.phase is Phase.SWITCHING_OVER:
        return _switching(course.handed, source, destination, _standing(power))
    if course.phase is Phase.ABORTING and course.handed is HandOver.RETURNED:
        return f"about to go on at {source}"
    return f"{power} on {source}"


def _standing(power: Power) -> str:
    return "off" if power is Power.OFF else "paused"


def _switching(handed: HandOver, source: str, destination: str, standing: str) -> str:
    if handed is HandOver.HELD:
        return f"{standing} on {source} for the switchover"
    if handed is HandOver.YIELDED:
        return f"{standing} on {source} and {destination}: one of them is about to go on"
    if handed is HandOver.COMMITTED:
        return f"about to go on at {destination}, which owns it"
    return f"about to go on at {source}"


def describe(course: Course) -> str:
    """The course for logs and errors."""
    return course.phase.value if course.handed is HandOver.HELD else f"{course.phase.value} ({course.handed.value})"
