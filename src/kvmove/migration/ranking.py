"""The order of the hosts that a VM could go to. Pure.

It weighs nothing: each criterion only decides among hosts that are equal in all criteria before it. Where load should
be balanced is not asked here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from kvmove.migration.findings import blocks
from kvmove.model.move import MoveKind
from kvmove.model.ranking import RankedHost
from kvmove.units import format_size


class _Criterion(NamedTuple):
    """`key`: smaller is better. `order` is its part of the sentence on all, `said` what a host's `why` has of it."""

    key: Callable[[RankedHost], int]
    order: str
    said: Callable[[RankedHost], str]


def _blockers(host: RankedHost) -> int:
    return sum(blocks(finding) for finding in host.findings)


def _warnings(host: RankedHost) -> int:
    return len(host.findings) - _blockers(host)


def _copies(host: RankedHost) -> int:
    """The bytes of disk that would have to be copied."""
    return sum(disk.space or disk.size for disk in host.plan.disks) if host.plan is not None else 0


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _copies_words(host: RankedHost) -> str:
    if host.plan is None:
        return ""
    if host.plan.kind is MoveKind.HOST:
        return "no disk to copy"
    return f"{format_size(_copies(host))} of disks to copy"


_CRITERIA = (
    _Criterion(_blockers, "hosts that nothing blocks", lambda it: _count(_blockers(it), "blocker")),
    _Criterion(_warnings, "then those with fewer warnings", lambda it: _count(_warnings(it), "warning")),
    _Criterion(_copies, "then those for which less disk is copied", _copies_words),
    _Criterion(
        lambda it: it.running_moves,
        "then those with fewer running moves",
        lambda it: _count(it.running_moves, "running move"),
    ),
    _Criterion(
        lambda it: -(it.memory_free or 0),
        "then those with more free memory",
        lambda it: f"{format_size(it.memory_free)} of memory free" if it.memory_free is not None else "",
    ),
)

ORDER = f"First {', '.join(criterion.order for criterion in _CRITERIA)}; else by name."


def rank(hosts: Iterable[RankedHost]) -> tuple[RankedHost, ...]:
    """The hosts, best first, each with its `why`."""
    ordered = sorted(hosts, key=lambda host: (*(criterion.key(host) for criterion in _CRITERIA), host.host))
    return tuple(host.model_copy(update={"why": _why(host)}) for host in ordered)


def _why(host: RankedHost) -> str:
    return ", ".join(words for criterion in _CRITERIA if (words := criterion.said(host)))
