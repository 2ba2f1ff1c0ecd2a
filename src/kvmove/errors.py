"""The errors that leave a module, named by what the caller can do next.

    KvmoveError
    ├── InvalidInput          the request is wrong; mend it                                exit 2,  HTTP 422
    ├── CheckFailed           the request is right but cannot be done as things stand      exit 3,  HTTP 409
    ├── NotFound              no such VM, host, datastore, task                            exit 4,  HTTP 404
    ├── Busy                  someone else is at it, or owns it; ask later                 exit 5,  HTTP 409
    ├── Cancelled             the operator cancelled; the VM runs on at the source         exit 6,  HTTP 409
    ├── NotConverged          a limit of time or downtime; the VM runs on at the source    exit 7,  HTTP 409
    ├── NotAllowed            certificate, ticket or role                                  exit 8,  HTTP 403
    ├── Unreachable           manager, agent or registry does not answer                   exit 9,  HTTP 503
    ├── MoveFailed            a step failed and was undone; the VM runs on at the source   exit 1,  HTTP 500
    │   └── QemuError         QEMU refused a command
    └── NeedsAttention        what is true could not be found out; nothing was guessed     exit 20, HTTP 500

Every one carries a code, a sentence, a hint (what to do) and, where it is known, where the VM is now. At an
interface it becomes a `Problem` (RFC 9457) and, on the other side, the same error again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class KvmoveError(Exception):
    """An error that a person can act on. `detail` is one sentence that holds the facts; `hint` says what to do."""

    code: ClassVar[str] = "INTERNAL"
    title: ClassVar[str] = "Internal error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, detail: str, *, hint: str = "", vm_state: str = "", step: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.vm_state = vm_state
        self.step = step

    def problem(self) -> dict[str, Any]:
        """This error as a problem+json object (RFC 9457) with our members `code`, `hint`, `vm_state`, `step`."""
        return {
            "type": f"urn:kvmove:problem:{self.code.lower().replace('_', '-')}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "hint": self.hint,
            "vm_state": self.vm_state,
            "step": self.step,
        }


class InvalidInput(KvmoveError):
    code, title, status, exit_code = "INVALID_INPUT", "The request is not valid", 422, 2


class CheckFailed(KvmoveError):
    """`checks`: all that the checks before a move found, each as `model.finding.Finding` has it in JSON; else empty."""

    code, title, status, exit_code = "CHECK_FAILED", "The check before the start failed", 409, 3

    def __init__(
        self, detail: str, *, hint: str = "", vm_state: str = "", step: str = "", checks: Sequence[dict[str, Any]] = ()
    ) -> None:
        super().__init__(detail, hint=hint, vm_state=vm_state, step=step)
        self.checks = tuple(checks)

    def problem(self) -> dict[str, Any]:
        return super().problem() | ({"checks": list(self.checks)} if self.checks else {})


class NotFound(KvmoveError):
    code, title, status, exit_code = "NOT_FOUND", "Not found", 404, 4


class Busy(KvmoveError):
    code, title, status, exit_code = "BUSY", "Busy or owned by another", 409, 5


class Cancelled(KvmoveError):
    code, title, status, exit_code = "CANCELLED", "Cancelled", 409, 6


class NotConverged(KvmoveError):
    code, title, status, exit_code = "NOT_CONVERGED", "The move did not converge", 409, 7


class NotAllowed(KvmoveError):
    code, title, status, exit_code = "NOT_ALLOWED", "Not allowed", 403, 8


class Unreachable(KvmoveError):
    code, title, status, exit_code = "UNREACHABLE", "No answer", 503, 9


class MoveFailed(KvmoveError):
    code, title, status, exit_code = "MOVE_FAILED", "The move failed", 500, 1


class QemuError(MoveFailed):
    """QEMU refused a command. `command` is the QMP command, `error_class` QMP's class (GenericError, …)."""

    code, title = "QEMU_ERROR", "QEMU refused"

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"QEMU refused {command}: {description}")
        self.command = command
        self.error_class = error_class


class NeedsAttention(KvmoveError):
    code, title, status, exit_code = "NEEDS_ATTENTION", "Needs attention", 500, 20


_BY_CODE: dict[str, type[KvmoveError]] = {
    kind.code: kind
    for kind in (
        InvalidInput, CheckFailed, NotFound, Busy, Cancelled, NotConverged, NotAllowed, Unreachable, MoveFailed,
        NeedsAttention,
    )
}  # fmt: skip


def from_problem(problem: dict[str, Any]) -> KvmoveError:
    """The error that `problem` describes; an unknown code becomes a plain KvmoveError."""
    detail = str(problem.get("detail") or problem.get("title") or "unknown error")
    kind = _BY_CODE.get(str(problem.get("code")), MoveFailed if problem.get("code") == "QEMU_ERROR" else KvmoveError)
    error = kind(
        detail,
        hint=str(problem.get("hint") or ""),
        vm_state=str(problem.get("vm_state") or ""),
        step=str(problem.get("step") or ""),
    )
    if isinstance(error, CheckFailed):
        checks = problem.get("checks")
        error.checks = tuple(it for it in checks if isinstance(it, dict)) if isinstance(checks, list) else ()
    return error
