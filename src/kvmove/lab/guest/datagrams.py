"""What the ledger guest sends, as `guest/ledger_format.h` lays it out, and how the recorder stores it. Pure.

Invariant: a datagram that does not have exactly the length that its own fields say is refused as a whole.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

DATAGRAM_MAX = 1400
LOG_NAME = "datagrams.log"
LOG_HEAD = b"KVLEDGER" + (1).to_bytes(8, "little")

_MAGIC = 0x444C564B
_VERSION = 1
_HEAD = struct.Struct("<IBBHIIQQQ")
_HEARTBEAT = struct.Struct("<QIIII")
_REPORT = struct.Struct("<QQHHIII")
_WRITER = struct.Struct("<BBBBIIIIIII")
_RECORD = struct.Struct("<IIHBBII")
_ENTRY = struct.Struct("<QIHH")


class DatagramType(IntEnum):
    HEARTBEAT = 1
    REPORT = 2
    RECEIPT = 3


_TYPES = frozenset(int(kind) for kind in DatagramType)


class OperationKind(IntEnum):
    WRITE = 1
    ZERO = 2
    DISCARD = 3
    FLUSH = 4


class Head(NamedTuple):
    """Who sent it. `number` counts heartbeats and reports of a boot, each from 1; a receipt names the last report
    that arrived.
    """

    type: DatagramType
    vm: int
    boot: int
    number: int
    guest_ns: int


class Heartbeat(NamedTuple):
    writes: int
    corrupt_pages: int
    io_errors: int
    tick_gap_us: int
    ram_sweeps: int


class WriterStatus(NamedTuple):
    """A writer as of a report; sequence numbers start from 1 in each boot."""

    writer: int
    disk: int
    intent_kind: int
    submitted: int
    acknowledged: int
    flushed: int
    intent: int
    intent_done: int
    intent_lba: int
    intent_sectors: int


class Record(NamedTuple):
    """A completed operation. `done_us` counts from the report's `base_ns`; `lba` in sectors."""

    seq: int
    lba: int
    sectors: int
    kind: int
    writer: int
    done_us: int
    latency_us: int


class Report(NamedTuple):
    base_ns: int
    oldest: int
    corrupt_pages: int
    io_errors: int
    reports_lost: int
    writers: list[WriterStatus]
    records: list[Record]


class LogEntry(NamedTuple):
    """A datagram as the recorder got it; `arrival_ns` is CLOCK_MONOTONIC_RAW."""

    arrival_ns: int
    address: int
    port: int
    datagram: bytes


def parse_head(datagram: bytes) -> Head | None:
    """The head, or None when this is no whole datagram of a ledger guest."""
    if len(datagram) < _HEAD.size:
        return None
    magic, version, kind, length, vm, _, boot, number, guest_ns = _HEAD.unpack_from(datagram)
    if magic != _MAGIC or version != _VERSION or length != len(datagram) or kind not in _TYPES:
        return None
    return Head(DatagramType(kind), vm, boot, number, guest_ns)


def parse_heartbeat(datagram: bytes) -> Heartbeat | None:
    """The body of a heartbeat whose head was parsed."""
    if len(datagram) != _HEAD.size + _HEARTBEAT.size:
        return None
    return Heartbeat(*_HEARTBEAT.unpack_from(datagram, _HEAD.size))


def report_oldest(datagram: bytes) -> int:
    """Number of the oldest report that the guest may still send; 0 when the datagram is too short for a report."""
    if len(datagram) < _HEAD.size + _REPORT.size:
        return 0
    return int(_REPORT.unpack_from(datagram, _HEAD.size)[1])


def parse_report(datagram: bytes) -> Report | None:
    """The body of a report whose head was parsed."""
    if len(datagram) < _HEAD.size + _REPORT.size:
        return None
    base_ns, oldest, writers, records, corrupt, errors, lost = _REPORT.unpack_from(datagram, _HEAD.size)
    first_writer = _HEAD.size + _REPORT.size
    first_record = first_writer + writers * _WRITER.size
    if len(datagram) != first_record + records * _RECORD.size:
        return None
    status = [
        WriterStatus(fields[0], fields[1], fields[2], *fields[4:])
        for fields in _WRITER.iter_unpack(datagram[first_writer:first_record])
    ]
    done = list(map(Record._make, _RECORD.iter_unpack(datagram[first_record:])))
    return Report(base_ns, oldest, corrupt, errors, lost, status, done)


def make_head(head: Head, body_length: int = 0) -> bytes:
    """A head for a datagram with a body of `body_length` bytes."""
    length = _HEAD.size + body_length
    return _HEAD.pack(_MAGIC, _VERSION, head.type, length, head.vm, 0, head.boot, head.number, head.guest_ns)


def make_heartbeat(head: Head, beat: Heartbeat) -> bytes:
    return make_head(head, _HEARTBEAT.size) + _HEARTBEAT.pack(*beat)


def make_report(head: Head, report: Report) -> bytes:
    counts = (len(report.writers), len(report.records))
    body = _REPORT.pack(
        report.base_ns, report.oldest, *counts, report.corrupt_pages, report.io_errors, report.reports_lost
    )
    body += b"".join(_WRITER.pack(*status[:3], 0, *status[3:]) for status in report.writers)
    body += b"".join(_RECORD.pack(*record) for record in report.records)
    return make_head(head, len(body)) + body


def make_entry(entry: LogEntry) -> bytes:
    """The entry as it lies in the log."""
    return _ENTRY.pack(entry.arrival_ns, entry.address, entry.port, len(entry.datagram)) + entry.datagram


def parse_entries(log: bytes) -> Iterator[tuple[LogEntry, int]]:
    """Each whole entry of a piece of the log, with the offset of its end; a part at the end is left."""
    at = 0
    while at + _ENTRY.size <= len(log):
        arrival_ns, address, port, length = _ENTRY.unpack_from(log, at)
        end = at + _ENTRY.size + length
        if end > len(log):
            return
        yield LogEntry(arrival_ns, address, port, log[at + _ENTRY.size : end]), end
        at = end
