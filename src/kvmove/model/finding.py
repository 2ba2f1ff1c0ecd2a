"""What a check before a move found."""

from enum import StrEnum

from kvmove.model.strict import Strict


class Severity(StrEnum):
    """A blocker stops the move before it starts; a warning lets it go on."""

    BLOCKER = "blocker"
    WARNING = "warning"


class Finding(Strict):
    """One thing that a check found: what is wrong and where, and what to do about it.

    `code` is for programs and never changes its meaning: lower case, words joined by dashes.
    """

    code: str
    severity: Severity
    what: str
    remedy: str
