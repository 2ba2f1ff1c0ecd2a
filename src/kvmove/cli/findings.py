"""What checks before a move found, for a person: each finding in a line, its remedy below it."""

from collections.abc import Iterable

from pydantic import TypeAdapter, ValidationError
from rich.text import Text

from kvmove.cli.output import printable
from kvmove.errors import CheckFailed
from kvmove.model.finding import Finding, Severity

_FINDINGS = TypeAdapter(tuple[Finding, ...])
_SHOWN = {Severity.BLOCKER: ("Blocked", "bold red"), Severity.WARNING: ("Warning", "yellow")}


def render_findings(findings: Iterable[Finding]) -> list[Text]:
    """A text for each finding, the blockers first."""
    return [_finding(it) for it in sorted(findings, key=lambda it: it.severity is not Severity.BLOCKER)]


def findings_of(error: CheckFailed) -> tuple[Finding, ...]:
    """What `error` carries; nothing where a manager of another version carries something else."""
    try:
        return _FINDINGS.validate_python(error.checks)
    except ValidationError:
        return ()


def _finding(finding: Finding) -> Text:
    name, style = _SHOWN[finding.severity]
    shown = Text(f"{name}: ", style=style).append(printable(finding.what), "default")
    return shown.append(f" [{printable(finding.code)}]", "dim").append(
        f"\n    do: {printable(finding.remedy)}", "default"
    )
