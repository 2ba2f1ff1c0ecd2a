"""The matrix' cases, and how a case is judged: everything that may be wrong with one makes it wrong."""

from dataclasses import replace
from itertools import product

import pytest

from kvmove.lab.guest.verifier import Verdict
from kvmove.lab.matrix_cases import QUICK, Case, Chain, Image, cases, chosen
from kvmove.lab.matrix_judge import Seen, judge
from kvmove.lab.matrix_run import NOTHING, Mark
from kvmove.lab.results import MatrixResult
from kvmove.model.move import MoveKind
from kvmove.model.vm import DiskFormat, Provisioning, VmState

NAMES = [case.name for case in cases()]

GOOD = Verdict(
    acknowledged=100, lost=0, corrupt=0, checked=5000, doubtful=0, lost_sectors=0, unacknowledged=0, unreported=0,
    boots=1, findings=(),
)  # fmt: skip
CASE = Case(MoveKind.UNIFIED, Image.RAW, Image.RAW)
TO_REFUSE = Case(MoveKind.UNIFIED, Image.RAW, Image.BLOCK)
MOVED = Seen(verdicts=(GOOD,), digests=True, stun_ms=50.0)
REFUSED = Seen(verdicts=(GOOD,), refusal="a block device has all of its space")


def test_every_name_is_one_case() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(name == " ".join(name.split()) for name in NAMES)


def test_every_combination_is_there() -> None:
    found = set(cases())
    axes = product((MoveKind.UNIFIED, MoveKind.STORAGE), Image, Image, Provisioning, (1, 3))
    for (kind, source, destination, provisioning, disks), state in product(
        axes, (VmState.RUNNING, VmState.PAUSED, VmState.OFF)
    ):
        assert Case(kind, source, destination, provisioning, disks, state) in found
    for source, disks, state in product(Image, (1, 3), (VmState.RUNNING, VmState.PAUSED, VmState.OFF)):
        assert Case(MoveKind.HOST, source, source, disks=disks, state=state) in found
    for chain in (Chain.KEPT, Chain.FLATTENED):
        assert any(case.chain is chain and case.kind is MoveKind.UNIFIED for case in found)
        assert any(case.chain is chain and case.kind is MoveKind.STORAGE for case in found)


def test_names_are_stable() -> None:
    assert "unified raw→qcow2 thin 3 disks running" in NAMES
    assert "storage block→raw thick 1 disk off" in NAMES
    assert "host raw 3 disks paused" in NAMES
    assert "unified qcow2 on a base→qcow2 thin 1 disk running flattened" in NAMES


def test_quick_cases_are_cases_and_only_takes_parts_of_names() -> None:
    assert [case.name for case in chosen((), quick=True)] == [name for name in NAMES if name in QUICK]
    assert {case.name for case in chosen((), quick=True)} == set(QUICK)
    assert chosen((), quick=False) == list(cases())
    assert {case.kind for case in chosen(("host",), quick=False)} == {MoveKind.HOST}
    some = chosen(("host qcow2 3 disks off", "raw→raw thick 1 disk paused"), quick=False)
    assert [case.name for case in some] == [
        "unified raw→raw thick 1 disk paused", "storage raw→raw thick 1 disk paused", "host qcow2 3 disks off",
    ]  # fmt: skip
    assert chosen(("no such",), quick=False) == []


def test_a_thin_device_and_a_change_of_format_in_a_host_move_are_to_be_refused() -> None:
    for case in cases():
        thin_device = case.kind is not MoveKind.HOST and case.provisioning_after is Provisioning.THIN
        changed = case.kind is MoveKind.HOST and case.destination is not case.source
        assert bool(case.refused) == (changed or (thin_device and case.destination is Image.BLOCK)), case.name


def test_a_move_is_asked_for_as_its_case_says() -> None:
    for case in cases():
        request = case.request("m1", "h2")
        assert request.host == (None if case.kind is MoveKind.STORAGE else "h2")
        assert request.flatten == (case.chain is Chain.FLATTENED)
        if case.kind is MoveKind.HOST:
            assert (request.datastore, request.provisioning) == (None, None)
            assert case.source_datastore.endswith("shared"), "else it is no host move"
        else:
            assert request.datastore == case.destination_datastore
            assert request.provisioning is case.provisioning
        if case.kind is MoveKind.STORAGE:
            assert case.source_datastore != case.destination_datastore
        if request.format is not None:
            assert (request.format is DiskFormat.QCOW2) == (case.destination is Image.QCOW2)


def test_a_move_is_good_when_nothing_is_wrong() -> None:
    judged = judge(CASE, MOVED)
    assert judged.good
    assert judged.row.model_dump(mode="json") == {
        "case": CASE.name, "result": "moved", "lost": 0, "equal": True, "stun_ms": 50.0, "reason": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (replace(MOVED, verdicts=(replace(GOOD, lost=2),)), "2 writes lost"),
        (replace(MOVED, verdicts=(replace(GOOD, corrupt=3),)), "3 sectors corrupt"),
        (replace(MOVED, verdicts=(replace(GOOD, doubtful=1),)), "1 doubtful"),
        (replace(MOVED, verdicts=(replace(GOOD, checked=0),)), "nothing to check"),
        (replace(MOVED, verdicts=(replace(GOOD, acknowledged=0),)), "nothing to check"),
        (replace(MOVED, verdicts=()), "0 of 1 disks"),
        (replace(MOVED, digests=False), "not found equal"),
        (replace(MOVED, digests=None), "not found equal"),
        (replace(MOVED, wrong=("it is off on h1",)), "off on h1"),
        (replace(MOVED, failure="the wire broke"), "the wire broke"),
    ],
)
def test_a_move_with_a_fault_has_failed(seen: Seen, says: str) -> None:
    judged = judge(CASE, seen)
    assert not judged.good
    assert judged.row.result is MatrixResult.FAILED
    assert says in judged.row.reason


def test_a_lost_write_on_any_disk_counts() -> None:
    case = replace(CASE, disks=3)
    judged = judge(case, replace(MOVED, verdicts=(GOOD, replace(GOOD, lost=1), replace(GOOD, lost=2))))
    assert (judged.good, judged.row.lost, judged.row.equal) == (False, 3, False)
    assert "disk 1: 1 writes lost" in judged.row.reason
    assert judge(case, replace(MOVED, verdicts=(GOOD, GOOD, GOOD))).good


def test_disks_of_one_host_are_not_compared_by_it() -> None:
    storage = replace(CASE, kind=MoveKind.STORAGE)
    assert judge(storage, replace(MOVED, digests=None)).good
    assert not judge(storage, replace(MOVED, digests=False)).good


def test_a_refusal_is_good_only_where_it_is_expected_and_says_why() -> None:
    judged = judge(TO_REFUSE, REFUSED)
    assert judged.good
    assert (judged.row.result, judged.row.reason) == (MatrixResult.REFUSED, REFUSED.refusal)
    assert (judged.row.lost, judged.row.equal, judged.row.stun_ms) == (0, None, None)
    unexpected = judge(CASE, REFUSED)
    assert (unexpected.good, unexpected.row.result) == (False, MatrixResult.REFUSED)
    for refusal in ("", " ", "h2 does not answer"):
        assert not judge(TO_REFUSE, replace(REFUSED, refusal=refusal)).good
    assert not judge(TO_REFUSE, replace(REFUSED, wrong=("something is not as it was",))).good
    assert not judge(TO_REFUSE, replace(REFUSED, verdicts=(replace(GOOD, lost=1),))).good
    assert judge(TO_REFUSE, MOVED).row.result is MatrixResult.FAILED


def test_a_vm_that_cannot_be_made_proves_nothing() -> None:
    judged = judge(TO_REFUSE, Seen(unprepared="no datastore of block devices"))
    assert (judged.good, judged.row.result) == (False, MatrixResult.REFUSED)
    assert "no datastore of block devices" in judged.row.reason


def test_a_mark_is_passed_when_every_disk_is_written_to_again() -> None:
    mark = Mark(1, {0: 10, 1: 5})
    assert mark.is_passed_by(Mark(1, {0: 11, 1: 6}), 2)
    assert not mark.is_passed_by(Mark(1, {0: 11, 1: 5}), 2), "its second disk hangs"
    assert not mark.is_passed_by(Mark(1, {0: 11}), 2)
    assert mark.is_passed_by(Mark(2, {0: 1, 1: 1}), 2), "a new boot begins anew"
    assert not mark.is_passed_by(Mark(2, {0: 1, 1: 0}), 2)
    assert not NOTHING.is_passed_by(NOTHING, 1)
