"""`kvmove lab downtime`, small: each kind of move once, and a fresh disk by each rung."""

from pathlib import Path

import pytest

from kvmove.disk.offload import Rung
from kvmove.lab.downtime import run_downtime
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.model.move import MoveKind
from kvmove.units import GIB, MIB
from tests.support.audience import Quiet

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

GUEST = Path(__file__).parents[2] / "build" / "guest"
SPEC = LabSpec(nics=(0,), datastore=DatastoreSpec(size=2 * GIB), shared=True)
VM = LedgerVm(name="still", memory=160 * MIB, disk=128 * MIB, data=32 * MIB, ram_mib=16)
FRESH = LedgerVm(name="fresh", number=2, memory=160 * MIB, disk=512 * MIB, data=256 * MIB, ram_mib=16, rate=100)


@pytest.mark.full
async def test_every_kind_of_move_and_every_rung_is_measured() -> None:
    outcome = await run_downtime(SPEC, VM, FRESH, GUEST, 1, Quiet())
    found = outcome.result
    assert outcome.findings == ()
    assert found.lost == 0
    assert {run.kind for run in found.runs} == set(MoveKind)
    assert min(min(run.guest_ms, run.agent_ms) for run in found.runs) > 0
    assert [one.runs for one in found.summary] == [1, 1, 1]
    shared, copied, carried = found.copies
    assert [set(run.moved_by) for run in found.copies] == [{Rung.REFLINK}, {Rung.KERNEL_COPY}, {Rung.READ_WRITE}]
    assert shared.agent_io.rchar < 4 * MIB
    assert min(copied.agent_io.rchar, carried.agent_io.rchar, carried.agent_io.wchar) >= FRESH.data
    assert carried.agent_io.read_bytes >= FRESH.data
