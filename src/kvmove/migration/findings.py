"""What a check before a move found, and how several findings become one answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from kvmove.errors import CheckFailed


class Severity(StrEnum):
    """A blocker stops the move before it starts; a warning lets it go on."""

    BLOCKER = "blocker"
    WARNING = "warning"


class Finding(NamedTuple):
    """One thing that a check found: what it is, and what to do about it."""

    severity: Severity
    what: str
    hint: str


def blocker(what: str, hint: str) -> Finding:
    return Finding(Severity.BLOCKER, what, hint)


def warning(what: str, hint: str) -> Finding:
    return Finding(Severity.WARNING, what, hint)


def refuse_blockers(findings: Iterable[Finding], vm_state: str) -> None:
    """Go on when nothing blocks.

    :raise CheckFailed: all blockers at once in `detail`, their remedies in `hint`, each once.
    """
    blockers = [finding for finding in findings if finding.severity is Severity.BLOCKER]
    if blockers:
        raise CheckFailed(
            "; ".join(finding.what for finding in blockers),
            hint="; ".join(dict.fromkeys(finding.hint for finding in blockers)),
            vm_state=vm_state,
            step="plan",
        )


def warnings(findings: Iterable[Finding]) -> tuple[str, ...]:
    """The warnings as sentences with their remedies."""
    return tuple(f"{it.what}: {it.hint}" for it in findings if it.severity is Severity.WARNING)
