"""Medians and worsts are those of each kind; data that went through the agent in a reflink is found."""

import os
from pathlib import Path

import pytest

from kvmove.disk.offload import Rung
from kvmove.errors import CheckFailed
from kvmove.lab.downtime import XFS_WAYS, copy_findings, summary
from kvmove.lab.process_io import beyond_idle, process_io, used
from kvmove.lab.results import CopyRun, DowntimeRun, ProcessIo
from kvmove.model.move import MoveKind
from kvmove.units import GIB, MIB


def run(kind: MoveKind, guest: float, agent: float) -> DowntimeRun:
    return DowntimeRun(kind=kind, seconds=1.0, guest_ms=guest, agent_ms=agent)


NOTHING = ProcessIo(rchar=0, wchar=0, read_bytes=0, write_bytes=0)


def copy(rung: Rung = Rung.REFLINK, io: ProcessIo = NOTHING, guest_wrote: int = 0) -> CopyRun:
    return CopyRun(
        way="there", size=4 * GIB, data=2 * GIB, seconds=1.0, guest_ms=20.0, agent_ms=20.0, longest_gap_ms=20.0,
        moved_by={rung: 2 * GIB}, agent_io=io, guest_wrote=guest_wrote,
    )  # fmt: skip


def test_each_kind_has_its_own_median_and_worst() -> None:
    runs = [run(MoveKind.STORAGE, stun, stun + 1) for stun in (30, 10, 90, 20)] + [run(MoveKind.HOST, 5, 7)]
    host, storage = summary(runs)
    assert (host.kind, host.runs, host.guest_median_ms, host.guest_worst_ms) == (MoveKind.HOST, 1, 5, 5)
    assert (storage.kind, storage.runs, storage.guest_median_ms, storage.guest_worst_ms) == (
        MoveKind.STORAGE, 4, 25, 90,
    )  # fmt: skip
    assert (storage.agent_median_ms, storage.agent_worst_ms) == (26, 91)


def test_what_an_idle_process_does_is_not_counted() -> None:
    idle = ProcessIo(rchar=100, wchar=0, read_bytes=30, write_bytes=0)
    busy = ProcessIo(rchar=1050, wchar=7, read_bytes=90, write_bytes=0)
    found = beyond_idle(busy, 10.0, idle, 2.0)
    assert found == ProcessIo(rchar=550, wchar=7, read_bytes=0, write_bytes=0)


def test_the_kernels_counters_see_what_is_read_and_written(tmp_path: Path) -> None:
    before = process_io(os.getpid())
    (tmp_path / "some").write_bytes(bytes(MIB))
    (tmp_path / "some").read_bytes()
    found = used(before, process_io(os.getpid()))
    assert MIB <= found.rchar < 2 * MIB
    assert MIB <= found.wchar < 2 * MIB


def test_a_process_that_is_gone_has_no_counters() -> None:
    with pytest.raises(CheckFailed):
        process_io(0)


@pytest.mark.parametrize("counter", ["rchar", "wchar", "read_bytes", "write_bytes"])
def test_data_that_passes_through_the_agent_in_a_reflink_is_found(counter: str) -> None:
    assert copy_findings([copy(io=NOTHING.model_copy(update={counter: MIB}))], XFS_WAYS) == []
    [found] = copy_findings([copy(io=NOTHING.model_copy(update={counter: GIB}))], XFS_WAYS)
    assert "read or wrote data" in found


def test_what_the_guest_writes_is_no_data_of_ours() -> None:
    io = NOTHING.model_copy(update={"wchar": GIB, "write_bytes": GIB})
    assert copy_findings([copy(io=io, guest_wrote=GIB)], XFS_WAYS) == []


def test_another_rung_than_expected_is_found() -> None:
    [found] = copy_findings([copy(Rung.READ_WRITE)], XFS_WAYS)
    assert "by read and write, not by reflink" in found
