"""Which of the moves that wait begin now, and what the others wait for. Pure; the present comes in.

The policy, whole:
- Higher priority first; within a priority first come, first served.
- Nobody waits for ever: after each `patience` of waiting a move counts as of the next priority, up to high.
- Going down this line, a move begins when there is room for it *beside what runs and beside all that wait before it*.
  So a small one overtakes only where it takes nothing that one before it needs, and delays nobody.
- A move that is held (its time has not come, a host does not answer) is not in the line: it has no place and keeps
  nobody waiting.

Invariant: of nothing more is taken than its capacity, and the first in the line begins as soon as there is room for it
beside what runs. Deliberately not here: what a move takes (`costs`), and beginning it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kvmove.model.move import Claim
from kvmove.model.priority import Priority

_RANKS = (Priority.LOW, Priority.NORMAL, Priority.HIGH)


@dataclass(frozen=True)
class Running:
    """A move that runs, of the VM `vm`, and what it takes."""

    vm: str
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Waiting:
    """A move that waits in the line `since` then. Of two of the same moment the one with the lesser `id` came first."""

    id: str
    vm: str
    priority: Priority
    since: datetime
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Place:
    """One move's place in the line. It begins now when `reason` is empty; else `position` is 1 for the next."""

    id: str
    position: int
    reason: str


def line(running: Iterable[Running], waiting: Iterable[Waiting], now: datetime, patience: timedelta) -> list[Place]:
    """All that wait, those that begin now first, in the order of the line each."""
    taken = Counter[str]()
    movers: dict[str, list[str]] = {}
    for runs in running:
        _take(taken, movers, runs.vm, runs.claims)
    begin: list[Place] = []
    stay: list[Place] = []
    promised, ahead = Counter(taken), {key: list(names) for key, names in movers.items()}
    for move in sorted(waiting, key=lambda move: _turn(move, now, patience)):
        short = _short(move.claims, promised)
        _take(promised, ahead, move.vm, move.claims)
        if short is None:
            _take(taken, movers, move.vm, move.claims)
            begin.append(Place(move.id, 0, ""))
        else:
            reason = _reason(short, taken, movers.get(short.key, ()), ahead[short.key][:-1])
            stay.append(Place(move.id, len(stay) + 1, reason))
    return begin + stay


def fits(claims: Iterable[Claim], running: Iterable[Running]) -> bool:
    """Whether there is room for these beside what runs."""
    taken = Counter[str]()
    for move in running:
        taken.update({claim.key: claim.units for claim in move.claims})
    return _short(claims, taken) is None


def _turn(move: Waiting, now: datetime, patience: timedelta) -> tuple[int, datetime, str]:
    grown = max(now - move.since, timedelta()) // patience
    rank = min(_RANKS.index(move.priority) + grown, len(_RANKS) - 1)
    return -rank, move.since, move.id


def _short(claims: Iterable[Claim], taken: Counter[str]) -> Claim | None:
    """The first thing of which there is too little left."""
    return next((claim for claim in claims if taken[claim.key] + claim.units > claim.capacity), None)


def _take(taken: Counter[str], movers: dict[str, list[str]], vm: str, claims: Iterable[Claim]) -> None:
    for claim in claims:
        taken[claim.key] += claim.units
        movers.setdefault(claim.key, []).append(vm)


def _reason(short: Claim, taken: Counter[str], movers: Sequence[str], ahead: Sequence[str]) -> str:
    """In plain words. What only those before it in the line need is not taken yet, and said to be so."""
    if taken[short.key] + short.units > short.capacity:
        used = f"{taken[short.key]} of {short.capacity} units are taken"
        return f"waits for {short.what}: {used} by {_moves_of(movers)}"
    before = [vm for vm in ahead if vm not in movers]
    return f"waits for {short.what}: {_moves_of(before)} {'comes' if len(before) == 1 else 'come'} first"


def _moves_of(vms: Sequence[str]) -> str:
    if len(vms) == 1:
        return f"the move of {vms[0]}"
    shown, more = vms[:4], len(vms) - 4
    names = f"{', '.join(shown)} and {more} more" if more > 0 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"moves of {names}"
