"""How several findings of the checks before a move become one answer. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kvmove.errors import CheckFailed
from kvmove.model.finding import Acceptable, Finding, Severity


def blocker(code: str, what: str, remedy: str) -> Finding:
    return Finding(code=code, severity=Severity.BLOCKER, what=what, remedy=remedy)


def warning(code: str, what: str, remedy: str) -> Finding:
    return Finding(code=code, severity=Severity.WARNING, what=what, remedy=remedy)


def blocks(finding: Finding) -> bool:
    return finding.severity is Severity.BLOCKER


def as_accepted(finding: Finding, accepted: Collection[Acceptable]) -> Finding:
    """The finding, or, of a blocker that is accepted, the warning that is left of it."""
    if not blocks(finding) or finding.code not in accepted:
        return finding
    return warning(finding.code, f"{finding.what} (accepted)", finding.remedy)


def refuse_blockers(findings: Iterable[Finding], vm_state: str) -> None:
    """Go on when nothing blocks.

    :raise CheckFailed: with all findings in `checks`, also the warnings; the blockers' words in `detail`, their
        remedies in `hint`, each once, for whoever shows no list.
    """
    found = sorted(findings, key=lambda finding: not blocks(finding))
    blockers = [finding for finding in found if blocks(finding)]
    if blockers:
        raise CheckFailed(
            "; ".join(finding.what for finding in blockers),
            hint="; ".join(dict.fromkeys(finding.remedy for finding in blockers)),
            vm_state=vm_state,
            step="plan",
            checks=[finding.model_dump(mode="json") for finding in found],
        )
