"""The figures of a move follow from what the guest reported and when it was heard: no agent is asked."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmove.lab.guest.datagrams import (
    LOG_HEAD,
    LOG_NAME,
    DatagramType,
    Head,
    Heartbeat,
    LogEntry,
    OperationKind,
    Record,
    Report,
    WriterStatus,
    make_entry,
    make_heartbeat,
    make_report,
)
from kvmove.lab.guest.recorder_log import RecorderLog
from kvmove.lab.network import NicCounters
from kvmove.lab.observation import Instants, guest_figures, sent_between

MS = 1_000_000
START, ASKED, STOPPED, RESUMED, ENDED, LEFT = (ms * MS for ms in (1_000, 5_000, 9_000, 9_120, 9_200, 13_000))
STALL = range(7_000, 7_080)
"""Milliseconds of guest time in which no write completes, while the copy runs."""
DRAIN = range(8_970, 9_000)
"""The same just before the guest stands still: part of the switchover for whoever waits for a write."""


def guest_time(host_ms: int) -> int:
    """The guest's clock stands still from 9,000 ms to 9,120 ms."""
    return host_ms if host_ms < 9_000 else max(9_000, host_ms - 120)


def writes() -> Iterator[int]:
    """Guest times of completed writes, in ms: 500 a second before the move and after it, 250 a second meanwhile."""
    for at in range(1_000, 13_000, 2):
        if at in STALL or at in DRAIN or (5_000 <= at < 9_000 and at % 4):
            continue
        yield at


def entries() -> Iterator[LogEntry]:
    for counter, host_ms in enumerate(range(1_000, 13_000, 5), 1):
        if not 9_000 <= host_ms < 9_120:
            head = Head(DatagramType.HEARTBEAT, 1, 7, counter, guest_time(host_ms) * MS)
            yield LogEntry(host_ms * MS, 0, 0, make_heartbeat(head, Heartbeat(0, 0, 0, 0, 0)))
    done = list(writes())
    for number, first in enumerate(range(0, len(done), 50), 1):
        some = done[first : first + 50]
        records = [Record(i, 0, 8, OperationKind.WRITE, 0, (at - some[0]) * 1000, 300) for i, at in enumerate(some)]
        status = [WriterStatus(0, 0, 0, first + len(some), first + len(some), 0, 0, 0, 0, 0)]
        report = Report(some[0] * MS, 1, 0, 0, 0, status, records)
        head = Head(DatagramType.REPORT, 1, 7, number, some[-1] * MS)
        yield LogEntry((some[-1] + 120) * MS, 0, 0, make_report(head, report))


@pytest.fixture
def log(tmp_path: Path) -> RecorderLog:
    ordered = sorted(entries(), key=lambda entry: entry.arrival_ns)
    (tmp_path / LOG_NAME).write_bytes(LOG_HEAD + b"".join(map(make_entry, ordered)))
    return RecorderLog(tmp_path)


def test_the_switchover_is_where_the_guests_clock_stood_still(log: RecorderLog) -> None:
    seen = guest_figures(log, 1, Instants(START, ASKED, ENDED, LEFT))
    assert seen.guest_downtime_ms == pytest.approx(120, abs=6)
    assert seen.network_downtime_ms == pytest.approx(125, abs=6)
    assert seen.gap_switchover_ms == pytest.approx(154, abs=6)


def test_the_longest_gap_while_copying_leaves_the_switchover_out(log: RecorderLog) -> None:
    seen = guest_figures(log, 1, Instants(START, ASKED, ENDED, LEFT))
    assert seen.gap_copying_ms == pytest.approx(84, abs=6)


def test_write_rates_are_those_of_before_meanwhile_and_after(log: RecorderLog) -> None:
    seen = guest_figures(log, 1, Instants(START, ASKED, ENDED, LEFT))
    assert seen.writes_before == pytest.approx(500, rel=0.02)
    assert seen.writes_copying == pytest.approx(245, rel=0.03)
    assert seen.writes_after == pytest.approx(500, rel=0.05)


def test_only_migration_nics_count_and_only_what_was_sent_meanwhile() -> None:
    before = {"mig0": NicCounters(100, 0, 1, 0), "mgmt0": NicCounters(5, 0, 1, 0)}
    after = {"mig0": NicCounters(350, 9, 2, 1), "mgmt0": NicCounters(50, 0, 1, 0)}
    assert sent_between(before, after) == {"mig0": 250}
