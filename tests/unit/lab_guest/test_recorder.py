"""The recorder over a real socket: what it acknowledges is in the log, and gaps are asked for again."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.errors import CheckFailed, InvalidInput
from kvmove.lab.guest.datagrams import DatagramType, Head, Report, make_report, parse_head
from kvmove.lab.guest.recorder import ReceiptBook, Recorder, RecorderProcess, parse_address
from kvmove.lab.guest.recorder_log import RecorderLog, now_ns


def _report(number: int, oldest: int = 1) -> bytes:
    return make_report(Head(DatagramType.REPORT, 1, 77, number, 0), Report(0, oldest, 0, 0, 0, [], []))


@pytest.fixture
def guest() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.settimeout(30)
        yield made


def _receipt_upto(guest: socket.socket, number: int) -> None:
    for _ in range(100):
        head = parse_head(guest.recv(2000))
        assert head is not None
        assert head.type is DatagramType.RECEIPT
        assert head.number <= number
        if head.number == number:
            return
    raise AssertionError("the receipts do not get there")


def test_a_receipt_stops_at_the_first_report_that_is_missing(tmp_path: Path, guest: socket.socket) -> None:
    with Recorder(("127.0.0.1", 0), tmp_path) as recorder:
        for number in (1, 2, 4):
            guest.sendto(_report(number), recorder.address)
        _receipt_upto(guest, 2)
        guest.sendto(_report(3), recorder.address)
        _receipt_upto(guest, 4)


def test_arrivals_carry_the_time_of_the_kernel_on_the_common_clock(tmp_path: Path, guest: socket.socket) -> None:
    before = now_ns()
    with Recorder(("127.0.0.1", 0), tmp_path) as recorder:
        guest.sendto(_report(1), recorder.address)
        _receipt_upto(guest, 1)
    [boot] = RecorderLog(tmp_path).boots(1)
    assert before - 10**6 <= boot.first_ns <= now_ns()


def test_a_recorder_in_its_own_process_keeps_what_arrived(tmp_path: Path, guest: socket.socket) -> None:
    with RecorderProcess(("127.0.0.1", 0), tmp_path) as recorder:
        guest.sendto(_report(1), recorder.address)
        _receipt_upto(guest, 1)
    with RecorderProcess(("127.0.0.1", 0), tmp_path) as recorder:  # after a restart: the log goes on
        guest.sendto(_report(2, oldest=2), recorder.address)
        _receipt_upto(guest, 2)
    assert len(RecorderLog(tmp_path).boots(1)) == 1
    assert (tmp_path / "datagrams.log").stat().st_size == 16 + 2 * (16 + len(_report(1)))


def test_an_address_that_is_taken_is_said(tmp_path: Path) -> None:
    with (
        Recorder(("127.0.0.1", 0), tmp_path) as first,
        pytest.raises(CheckFailed, match=r"did not start.*cannot listen"),
        RecorderProcess(first.address, tmp_path / "b"),
    ):
        pass


def test_an_address_without_a_port_is_refused() -> None:
    with pytest.raises(InvalidInput):
        parse_address("10.0.0.1")


@given(st.permutations(range(1, 12)), st.integers(1, 8))
def test_receipts_never_cover_a_missing_report_and_cover_all_in_the_end(order: list[int], oldest: int) -> None:
    book = ReceiptBook()
    arrived: set[int] = set()
    for number in order:
        arrived.add(number)
        upto = book.arrived(Head(DatagramType.REPORT, 1, 1, number, 0), oldest)
        assert set(range(oldest, upto + 1)) <= arrived
    assert upto == 11
