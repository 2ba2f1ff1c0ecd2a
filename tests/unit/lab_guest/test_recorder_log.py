"""What the log says of a guest, and that two guests in one are found."""

from pathlib import Path

import pytest

from kvmove.errors import NotFound
from kvmove.lab.guest.datagrams import DatagramType, Head, Record, Report, WriterStatus, make_report
from kvmove.lab.guest.dual_run import DualRunDetector
from kvmove.lab.guest.recorder_log import RecorderLog
from kvmove.lab.guest.timeline import Window
from tests.support.ledger_world import LedgerWorld

_MS = 10**6
_START = 50 * 10**9


def _play(world: LedgerWorld, beats: range = range(1, 401), base: int = _START) -> None:
    for counter in beats:
        world.heartbeat(counter, counter * 5 * _MS, base + counter * 5 * _MS)


def _report_writes(world: LedgerWorld, number: int, done_ms: range) -> bytes:
    records = [Record(ms, 0, 8, 1, 0, ms * 1000, 400) for ms in done_ms]
    status = [WriterStatus(0, 0, 0, done_ms[-1], done_ms[-1], 0, 0, 0, 0, 0)]
    head = Head(DatagramType.REPORT, world.vm, world.boot, number, done_ms[-1] * _MS)
    return make_report(head, Report(0, 1, 0, 0, 0, status, records))


def _log(world: LedgerWorld, folder: Path) -> RecorderLog:
    world.save(folder)
    return RecorderLog(folder)


def test_rate_and_latency_come_from_the_reports(tmp_path: Path) -> None:
    world = LedgerWorld()
    _play(world)
    for number in range(40):
        world.arrive(_report_writes(world, number + 1, range(number * 50 + 1, number * 50 + 51)))
    log = _log(world, tmp_path)
    second = Window(_START + 500 * _MS, _START + 1500 * _MS)
    assert log.write_rate(1, second) == 1000
    assert [rate for _, rate in log.writes_per_second(1, second, bucket_ns=250 * _MS)] == [1000] * 4
    assert log.longest_write_gap(1, second).length_ns == _MS
    assert log.latencies(1, second)[0] == 400_000
    assert log.last_acknowledged(1) == {0: 2000}


def test_a_report_that_is_sent_again_counts_once(tmp_path: Path) -> None:
    world = LedgerWorld()
    _play(world)
    again = _report_writes(world, 1, range(1, 51))
    for _ in range(3):
        world.arrive(again)
    log = _log(world, tmp_path)
    assert len(log.latencies(1, Window(0, 10**12))) == 50
    assert log.heartbeat_faults(1).total == 0


def test_a_break_in_the_heartbeats_is_the_downtime_on_the_network(tmp_path: Path) -> None:
    world = LedgerWorld()
    _play(world, range(1, 101))
    _play(world, range(101, 201), base=_START + 90 * _MS)
    log = _log(world, tmp_path)
    gap = log.longest_heartbeat_gap(1, log.whole(1))
    assert (gap.length_ns, gap.start_ns) == (95 * _MS, _START + 500 * _MS)
    assert log.longest_clock_stop(1, log.whole(1)).length_ns == 90 * _MS


def test_boots_are_listed_in_their_order(tmp_path: Path) -> None:
    world = LedgerWorld(vm=3)
    world.heartbeat(1, 0, 1000)
    world.reboot()
    world.heartbeat(1, 0, 5000)
    log = _log(world, tmp_path)
    assert log.vms() == [3]
    assert [boot.nonce for boot in log.boots(3)] == [0xB001, 0xB002]
    assert log.heartbeat_faults(3).total == 0


def test_a_second_stream_of_heartbeats_is_a_dual_run(tmp_path: Path) -> None:
    world = LedgerWorld()
    _play(world, range(1, 201))
    _play(world, range(150, 201), base=_START + 2 * _MS)
    violations = DualRunDetector(_log(world, tmp_path)).violations(1)
    assert [violation.signal for violation in violations] == ["heartbeat"]
    assert violations[0].detail.startswith("51 heartbeats came twice")


def test_a_counter_that_goes_back_is_a_dual_run(tmp_path: Path) -> None:
    world = LedgerWorld()
    _play(world, range(1, 101))
    world.heartbeat(103, 0, _START + 600 * _MS)
    world.heartbeat(102, 0, _START + 601 * _MS)
    log = _log(world, tmp_path)
    assert log.heartbeat_faults(1).regressions == 1
    assert DualRunDetector(log).violations(1)


def test_two_contents_under_one_report_number_are_a_dual_run(tmp_path: Path) -> None:
    world = LedgerWorld()
    world.arrive(_report_writes(world, 7, range(1, 51)))
    world.arrive(_report_writes(world, 7, range(1, 52)))
    log = _log(world, tmp_path)
    assert [violation.signal for violation in DualRunDetector(log).violations(1)] == ["report"]


def test_a_log_can_be_read_while_it_grows_even_in_the_middle_of_an_entry(tmp_path: Path) -> None:
    world = LedgerWorld()
    _play(world, range(1, 51))
    world.save(tmp_path)
    path = tmp_path / "datagrams.log"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    log = RecorderLog(tmp_path)
    half = log.boots(1)[0].last_ns
    with path.open("ab") as rest:
        rest.write(whole[1000:])
    log.refresh()
    assert log.boots(1)[0].last_ns > half
    assert len({at for at, _ in log.writes_per_second(1, Window(0, 10**9))}) == 1
    assert log.heartbeat_faults(1).total == 0


def test_strange_datagrams_are_passed_over(tmp_path: Path) -> None:
    world = LedgerWorld()
    _play(world, range(1, 11))
    for strange in (b"", b"x" * 200, _report_writes(world, 1, range(1, 9))[:-1]):
        world.arrive(strange)
    assert _log(world, tmp_path).vms() == [1]


def test_no_log_is_not_an_empty_log(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        RecorderLog(tmp_path)
