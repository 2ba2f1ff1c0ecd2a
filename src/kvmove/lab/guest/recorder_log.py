"""Reads the recorder's log: rates, silences and pauses of the guests, in host time, also while the recorder runs.

All instants are nanoseconds of CLOCK_MONOTONIC_RAW. Reports come up to some 100 ms after the fact (much later after
a break in the network): ask for windows that ended half a second ago.
"""

import time
from pathlib import Path
from typing import NamedTuple

from kvmove.errors import NotFound
from kvmove.lab.guest.datagrams import (
    LOG_HEAD,
    LOG_NAME,
    DatagramType,
    Head,
    LogEntry,
    OperationKind,
    parse_entries,
    parse_head,
    parse_heartbeat,
    parse_report,
)
from kvmove.lab.guest.timeline import NO_GAP, Completion, Gap, Timeline, Window, longest_silence

SECOND_NS = 10**9
_CHUNK = 4 << 20


class Boot(NamedTuple):
    """A start of the guest's kernel: its nonce, and when its first and its newest datagram arrived."""

    nonce: int
    first_ns: int
    last_ns: int


class HeartbeatFaults(NamedTuple):
    """Signs that two copies of one boot sent. Each must be 0.

    `duplicates`: a counter that came twice. `regressions`: a counter below one that had come. `forked_reports`: one
    number with two contents. `first_ns` is when the first sign arrived.
    """

    duplicates: int
    regressions: int
    forked_reports: int
    first_ns: int

    @property
    def total(self) -> int:
        return self.duplicates + self.regressions + self.forked_reports


class Health(NamedTuple):
    """The guest's own counters as of its newest heartbeat; they start anew with each boot.

    `ram_sweeps`: how often the whole RAM ledger was checked; two more sweeps after a move mean that every page was
    seen after it.
    """

    corrupt_pages: int
    io_errors: int
    ram_sweeps: int
    writes: int
    at_ns: int


class _BootLog:
    """What is known of one boot of one VM."""

    def __init__(self, nonce: int, arrival_ns: int) -> None:
        self.nonce = nonce
        self.first_ns = self.last_ns = arrival_ns
        self.timeline = Timeline()
        self.acknowledged: dict[int, int] = {}
        self.health: Health | None = None
        self.duplicates = self.regressions = self.forked_reports = self.fault_ns = 0
        self._counters: set[int] = set()
        self._highest = 0
        self._reports: dict[int, int] = {}

    def take(self, head: Head, entry: LogEntry) -> None:
        self.last_ns = entry.arrival_ns
        if head.type is DatagramType.HEARTBEAT:
            self._take_heartbeat(head, entry)
        elif head.type is DatagramType.REPORT:
            self._take_report(head, entry)

    def _take_heartbeat(self, head: Head, entry: LogEntry) -> None:
        beat = parse_heartbeat(entry.datagram)
        if beat is None:
            return
        if head.number <= self._highest:
            seen = head.number in self._counters
            self.duplicates += seen
            self.regressions += not seen
            self._note_fault(entry.arrival_ns)
            return
        self._counters.add(head.number)
        self._highest = head.number
        self.timeline.add_heartbeat(head.guest_ns, entry.arrival_ns)
        self.health = Health(beat.corrupt_pages, beat.io_errors, beat.ram_sweeps, beat.writes, entry.arrival_ns)

    def _take_report(self, head: Head, entry: LogEntry) -> None:
        report = parse_report(entry.datagram)
        if report is None:
            return
        content = hash(entry.datagram)
        if head.number in self._reports:
            if self._reports[head.number] != content:  # sent again is the same, byte by byte
                self.forked_reports += 1
                self._note_fault(entry.arrival_ns)
            return
        self._reports[head.number] = content
        for status in report.writers:
            highest = max(self.acknowledged.get(status.writer, 0), status.acknowledged)
            self.acknowledged[status.writer] = highest
        for record in report.records:
            if record.kind == OperationKind.WRITE:
                done_ns = report.base_ns + record.done_us * 1000
                self.timeline.add_completion(Completion(done_ns, record.latency_us * 1000))

    def _note_fault(self, at_ns: int) -> None:
        self.fault_ns = self.fault_ns or at_ns


class RecorderLog:
    """The log in `folder`. Reads what is there; `refresh` reads what came since.

    :raise NotFound: there is no log.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG_NAME
        self._offset = len(LOG_HEAD)
        self._boots: dict[int, dict[int, _BootLog]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read on to the log's present end."""
        try:
            log = self._path.open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"there is no recorder's log in {self._path.parent}") from error
        with log:
            log.seek(self._offset)
            rest = b""
            while piece := log.read(_CHUNK):
                rest += piece
                whole = 0
                for entry, end in parse_entries(rest):
                    self._take(entry)
                    whole = end
                self._offset += whole
                rest = rest[whole:]

    def _take(self, entry: LogEntry) -> None:
        head = parse_head(entry.datagram)
        if head is None or head.type is DatagramType.RECEIPT:
            return
        boots = self._boots.setdefault(head.vm, {})
        if head.boot not in boots:
            boots[head.boot] = _BootLog(head.boot, entry.arrival_ns)
        boots[head.boot].take(head, entry)

    def forget(self, vm: int) -> None:
        """Keep nothing of a VM that is gone: a log of many would fill the memory. Its file stays as it is."""
        self._boots.pop(vm, None)

    def vms(self) -> list[int]:
        return sorted(self._boots)

    def boots(self, vm: int) -> list[Boot]:
        """Boots in the order of their first datagram."""
        return [Boot(boot.nonce, boot.first_ns, boot.last_ns) for boot in self._of(vm)]

    def _of(self, vm: int) -> list[_BootLog]:
        return list(self._boots.get(vm, {}).values())

    def whole(self, vm: int) -> Window:
        """From the VM's first datagram to its newest."""
        boots = self._of(vm)
        return (
            Window(min(boot.first_ns for boot in boots), max(boot.last_ns for boot in boots)) if boots else Window(0, 0)
        )

    def _completions(self, vm: int, window: Window) -> list[tuple[int, int]]:
        return sorted(done for boot in self._of(vm) for done in boot.timeline.completions(window))

    def writes_per_second(
        self, vm: int, window: Window | None = None, bucket_ns: int = SECOND_NS
    ) -> list[tuple[int, float]]:
        """(start of the bucket, writes a second in it) for each bucket of the window; default: all of the log."""
        start_ns, end_ns = window or self.whole(vm)
        buckets = [0] * -(-(end_ns - start_ns) // bucket_ns)
        for at, _ in self._completions(vm, Window(start_ns, end_ns)):
            if start_ns <= at < end_ns:
                buckets[(at - start_ns) // bucket_ns] += 1
        series = []
        for number, writes in enumerate(buckets):
            bucket_start = start_ns + number * bucket_ns
            length = min(bucket_ns, end_ns - bucket_start)
            series.append((bucket_start, writes * SECOND_NS / length))
        return series

    def write_rate(self, vm: int, window: Window) -> float:
        """Writes a second, the mean over the window; 0 for an empty window."""
        length = window.end_ns - window.start_ns
        if length <= 0:
            return 0.0
        done = self._completions(vm, window)
        return sum(window.start_ns <= at < window.end_ns for at, _ in done) * SECOND_NS / length

    def longest_write_gap(self, vm: int, window: Window) -> Gap:
        """The longest time between two completed writes: what a user of the guest feels. See `longest_silence`."""
        return longest_silence([at for at, _ in self._completions(vm, window)], window)

    def longest_heartbeat_gap(self, vm: int, window: Window) -> Gap:
        """The longest time between two heartbeats that arrived: the downtime that an observer on the network sees."""
        return longest_silence(sorted(at for boot in self._of(vm) for at in boot.timeline.arrivals), window)

    def longest_clock_stop(self, vm: int, window: Window) -> Gap:
        """The longest time that the guest's clock stood still: its vCPUs were stopped. 0 = no stop found."""
        stops = [boot.timeline.longest_stop(window) for boot in self._of(vm)]
        return max(stops, default=NO_GAP)

    def latencies(self, vm: int, window: Window) -> list[int]:
        """Latencies of the writes completed in the window, by the guest's clock, sorted. A stop of the vCPUs is not
        in them.
        """
        done = self._completions(vm, window)
        return sorted(latency for at, latency in done if window.start_ns <= at <= window.end_ns)

    def last_acknowledged(self, vm: int) -> dict[int, int]:
        """Highest acknowledged sequence number of each writer in the newest boot."""
        boots = self._of(vm)
        return dict(boots[-1].acknowledged) if boots else {}

    def heartbeat_faults(self, vm: int) -> HeartbeatFaults:
        """Over all boots of the VM."""
        boots = self._of(vm)
        return HeartbeatFaults(
            sum(boot.duplicates for boot in boots),
            sum(boot.regressions for boot in boots),
            sum(boot.forked_reports for boot in boots),
            min((boot.fault_ns for boot in boots if boot.fault_ns), default=0),
        )

    def health(self, vm: int) -> Health | None:
        """The newest boot's counters; None before its first heartbeat."""
        boots = self._of(vm)
        return boots[-1].health if boots else None


def now_ns() -> int:
    """Now, on the clock of all instants here."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def raw_from_monotonic(seconds: float) -> int:
    """`time.monotonic()`'s `seconds` as an instant of CLOCK_MONOTONIC_RAW; the clocks drift, so ask within minutes."""
    return now_ns() + int(seconds * 1e9) - time.monotonic_ns()
