"""What a check before a move found."""

from enum import StrEnum

from kvmove.model.strict import Strict


class Severity(StrEnum):
    """A blocker stops the move before it starts; a warning lets it go on."""

    BLOCKER = "blocker"
    WARNING = "warning"


class Acceptable(StrEnum):
    """Codes of blockers that an operator may know better about, and so may accept: the VM is not in danger. Of what
    would break it, or its disks, there is none here."""

    BRIDGE_APART = "bridge-apart"


class Finding(Strict):
    """One thing that a check found: what is wrong and where, and what to do about it.

    `code` is for programs and never changes its meaning: lower case, words joined by dashes.
    """

    code: str
    severity: Severity
    what: str
    remedy: str
