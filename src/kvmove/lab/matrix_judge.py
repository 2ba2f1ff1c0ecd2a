"""What one case of the matrix was: moved, refused or failed, from what was seen of it. Pure.

One-sided: a case is good only if everything that was to be seen was seen. A judge that had nothing to check has found
a fault.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kvmove.lab.guest.verifier import Verdict
from kvmove.lab.matrix_cases import Case
from kvmove.lab.results import MatrixResult, MatrixRow


@dataclass(frozen=True)
class Seen:
    """What was seen of a case. `verdicts` has one a disk, in order. `unprepared` is why the product would not have such
    a VM, `refusal` why it would not move it: the API's text. `failure` is that of a move which began and did not
    succeed, or of what could not be looked at; `wrong` what else is not as it must be.

    `digests` says whether the disks were found equal at the switchover, None where nobody compared them. `stun_ms` is
    how long the guest's clock stood still, None where the guest does not run.
    """

    verdicts: Sequence[Verdict] = ()
    unprepared: str | None = None
    refusal: str | None = None
    failure: str | None = None
    wrong: Sequence[str] = ()
    digests: bool | None = None
    stun_ms: float | None = None


@dataclass(frozen=True)
class Judged:
    """The row, and whether it is as it must be."""

    row: MatrixRow
    good: bool


def judge(case: Case, seen: Seen) -> Judged:
    """A fault of any kind makes the case failed; a refusal is good where one is expected, and no move is.

    A VM that there cannot be was not refused its move: that is never good.
    """
    if seen.unprepared is not None:
        reason = f"there is no such VM: {seen.unprepared}"
        return Judged(MatrixRow(case=case.name, result=MatrixResult.REFUSED, reason=reason), good=False)
    faults = [*seen.wrong, *_ledger_faults(case, seen.verdicts)] if seen.failure is None else [seen.failure]
    moved = seen.refusal is None and seen.failure is None
    if moved and seen.digests is not True and (case.compared or seen.digests is False):
        faults.append("the disks were not found equal at the switchover")
    if moved and case.refused:
        faults.append(f"it was to be refused: {case.refused}")
    if seen.refusal is not None and not (seen.refusal.strip() and case.refused in seen.refusal):
        faults.append(f"the refusal does not say: {case.refused or 'why'}")
    result = MatrixResult.FAILED if faults else MatrixResult.MOVED if moved else MatrixResult.REFUSED
    row = MatrixRow(
        case=case.name,
        result=result,
        lost=sum(verdict.lost for verdict in seen.verdicts) if seen.verdicts else None,
        equal=_is_equal(case, seen) if moved else None,
        stun_ms=seen.stun_ms if moved else None,
        reason="; ".join(filter(None, (*faults, seen.refusal or ""))),
    )
    return Judged(row, good=not faults and (moved or bool(case.refused)))


def _is_equal(case: Case, seen: Seen) -> bool:
    return seen.digests is not False and not _ledger_faults(case, seen.verdicts)


def _ledger_faults(case: Case, verdicts: Sequence[Verdict]) -> list[str]:
    faults = [
        f"disk {number}: {verdict.lost} writes lost, {verdict.corrupt} sectors corrupt, {verdict.doubtful} doubtful"
        for number, verdict in enumerate(verdicts)
        if not verdict.ok
    ]
    faults += [
        f"disk {number}: the verifier had nothing to check"
        for number, verdict in enumerate(verdicts)
        if not verdict.checked or not verdict.acknowledged
    ]
    if len(verdicts) != case.disks:
        faults.append(f"{len(verdicts)} of {case.disks} disks were judged")
    return faults
