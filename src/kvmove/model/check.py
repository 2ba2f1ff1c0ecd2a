"""What `kvmove doctor` found: one check after the other, each with its remedy."""

from enum import StrEnum

from kvmove.model.strict import Strict


class CheckState(StrEnum):
    OK = "ok"
    WARN = "warn"  # it works, and should be looked at
    FAIL = "fail"  # it does not work, or will not for long


class Check(Strict):
    """One check. `about` is what was looked at (`this machine`, `manager`, a host), `remedy` empty when all is well."""

    about: str
    name: str
    state: CheckState
    said: str
    remedy: str = ""


class Diagnosis(Strict):
    """All checks, in the order in which they were made."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> bool:
        return any(check.state is CheckState.FAIL for check in self.checks)
