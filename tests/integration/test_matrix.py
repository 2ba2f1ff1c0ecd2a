"""The matrix: a case of each kind is moved and judged in one lab; a judge that cannot find a lost write is none."""

from pathlib import Path

import pytest

from kvmove.lab.disk_image import DiskImage
from kvmove.lab.guest.image import build
from kvmove.lab.guest.timeline import Window
from kvmove.lab.guest.verifier import Verdict
from kvmove.lab.lab import Lab
from kvmove.lab.matrix import MATRIX_LAB, run_matrix
from kvmove.lab.matrix_cases import chosen
from kvmove.lab.matrix_judge import Judged, Seen, judge
from kvmove.lab.matrix_run import Bench, CaseRun
from kvmove.lab.results import MatrixResult
from kvmove.model.task import Task
from kvmove.model.vm import VmState
from tests.support.audience import Quiet

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

GUEST = Path(__file__).parents[2] / "build" / "guest"
LEDGER_SECTOR = b"KVML"


async def test_the_quick_cases_are_as_they_must_be() -> None:
    cases, told = chosen((), quick=True), list[Judged]()
    found = await run_matrix(cases, GUEST, Quiet(), told.append)
    assert [one.row.case for one in found] == [case.name for case in cases]
    assert told == found
    for case, one in zip(cases, found, strict=True):
        assert one.good, one
        assert one.row.result is (MatrixResult.REFUSED if case.refused else MatrixResult.MOVED)
        assert one.row.lost == 0
        assert (one.row.stun_ms or 0) > 0 or case.refused or case.state is not VmState.RUNNING


class LosesAWrite(CaseRun):
    """On the last disk one sector that the guest wrote is as if it never had, before the judge looks."""

    def _verdict(self, number: int, disk: DiskImage) -> Verdict:
        if number == self.case.disks - 1:
            with disk.file.open("r+b") as content:
                whole = content.read()
                sector = next(at for at in range(0, len(whole), 512) if whole.startswith(LEDGER_SECTOR, at))
                content.seek(sector)
                content.write(bytes(512))
        return super()._verdict(number, disk)


class Elsewhere(CaseRun):
    """The VM is looked for where it does not run."""

    async def _moved(self, task: Task, moving: Window) -> Seen:
        self.destination = "h1"
        return await super()._moved(task, moving)


async def test_a_lost_write_and_a_vm_that_is_not_where_it_should_be_are_found() -> None:
    [case] = chosen(("storage raw→raw thin 3 disks running",), quick=False)
    [host_case] = chosen(("host raw 1 disk running",), quick=False)
    image = build(GUEST)
    async with Lab.passing("matrix", MATRIX_LAB) as lab:
        bench = Bench(lab, image, Quiet())
        judged = judge(case, await LosesAWrite(bench, case, 1).run())
        assert (judged.good, judged.row.result, judged.row.equal) == (False, MatrixResult.FAILED, False)
        assert (judged.row.lost or 0) > 0
        assert "disk 2" in judged.row.reason
        assert "disk 1" not in judged.row.reason
        elsewhere = judge(host_case, await Elsewhere(bench, host_case, 2).run())
        assert not elsewhere.good
        assert elsewhere.row.reason == "it is running on h2, and not running on h1"
        assert await lab.manager.vms() == [], "each case's VM is deleted"
