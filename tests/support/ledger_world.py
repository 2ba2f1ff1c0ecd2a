"""A ledger guest in Python: a disk, and what the guest tells the recorder of it, so that tests can take the two apart.

It makes sectors from the description of the format, not from the C code, so both sides of the format are checked.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path

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

SECTOR = 512
MILLISECOND = 10**6
_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_HEADER = struct.Struct("<IHHQQIIIIQQ")


def _mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _stream(key: int, words: int) -> bytes:
    parts = []
    for number in range(words):
        word = (key + number * _GOLDEN) * 0xBF58476D1CE4E5B9 & _MASK
        parts.append(word ^ (word >> 29))
    return struct.pack(f"<{words}Q", *parts)


def first_data(seed: int, lba: int) -> bytes:
    """A sector of a prefilled disk."""
    return _stream(_mix((_mix(seed) + lba * _GOLDEN) & _MASK), SECTOR // 8)


@dataclass
class LedgerWorld:
    """One VM with one disk. Operations are acknowledged unless said otherwise; `save` writes disk and log."""

    sectors: int = 2048
    vm: int = 1
    boot: int = 0xB001
    content: dict[int, bytes] = field(default_factory=dict)
    entries: list[LogEntry] = field(default_factory=list)
    _seq: dict[int, int] = field(default_factory=dict)
    _intents: dict[int, tuple[int, int, int, int, int]] = field(default_factory=dict)
    _records: list[Record] = field(default_factory=list)
    _number: int = 0
    _now_ns: int = 10**9
    reports_lost: int = 0

    def sector(self, writer: int, seq: int, lba: int, index: int = 0) -> bytes:
        """The sector that write `seq` of `writer` puts at `lba`."""
        rest = _HEADER.pack(self.vm, writer, 1, self.boot, lba, seq, 0, SECTOR, index, self._now_ns, 0)
        key = _mix(self.boot ^ _mix((lba * _GOLDEN + seq) & _MASK))
        return struct.pack("<II", 0x4C4D564B, _crc32c(rest)) + rest + _stream(key, 56)

    def write(self, lba: int, sectors: int = 8, *, writer: int = 0, acknowledged: bool = True) -> int:
        """Write; returns the sequence number."""
        seq = self._submit(writer)
        for index in range(sectors):
            self.content[lba + index] = self.sector(writer, seq, lba + index, index)
        if acknowledged:
            self._done(OperationKind.WRITE, writer, lba, sectors)
        return seq

    def zero(
        self, lba: int, sectors: int = 8, *, writer: int = 0, acknowledged: bool = True, done: bool = True
    ) -> None:
        self._wipe(OperationKind.ZERO, (lba, sectors), writer, acknowledged=acknowledged, done=done)

    def discard(self, lba: int, sectors: int = 8, *, writer: int = 0, done: bool = True) -> None:
        self._wipe(OperationKind.DISCARD, (lba, sectors), writer, acknowledged=True, done=done)

    def flush(self, writer: int = 0) -> None:
        self._submit(writer)
        self._done(OperationKind.FLUSH, writer, 0, 0)

    def reboot(self) -> None:
        """Another boot of the same VM."""
        self.report()
        self.boot += 1
        self._number = 0
        self._seq.clear()
        self._intents.clear()

    def _submit(self, writer: int) -> int:
        self._seq[writer] = self._seq.get(writer, 0) + 1
        return self._seq[writer]

    def _done(self, kind: OperationKind, writer: int, lba: int, sectors: int) -> None:
        self._records.append(Record(self._seq[writer], lba, sectors, kind, writer, 0, 300))

    def _wipe(
        self, kind: OperationKind, where: tuple[int, int], writer: int, *, acknowledged: bool, done: bool
    ) -> None:
        lba, sectors = where
        count = self._intents.get(writer, (0, 0, 0, 0, 0))[1] + 1
        self._submit(writer)
        self._intents[writer] = (kind, count, count if acknowledged else count - 1, lba, sectors)
        if done:
            for index in range(sectors):
                self.content.pop(lba + index, None)
        if acknowledged:
            self._done(kind, writer, lba, sectors)

    def report(self, *, lose: bool = False) -> None:
        """Send what was acknowledged since the last report; `lose` it on the way."""
        self._number += 1
        self._now_ns += 50 * MILLISECOND
        status = []
        for writer, seq in self._seq.items():
            kind, intent, intent_done, lba, sectors = self._intents.get(writer, (0, 0, 0, 0, 0))
            status.append(WriterStatus(writer, 0, kind, seq, seq, 0, intent, intent_done, lba, sectors))
        report = Report(self._now_ns, 1, 0, 0, self.reports_lost, status, self._records)
        head = Head(DatagramType.REPORT, self.vm, self.boot, self._number, self._now_ns)
        self._records = []
        if not lose:
            self.arrive(make_report(head, report))

    def heartbeat(self, counter: int, guest_ns: int, arrival_ns: int) -> None:
        head = Head(DatagramType.HEARTBEAT, self.vm, self.boot, counter, guest_ns)
        self.arrive(make_heartbeat(head, Heartbeat(0, 0, 0, 0, 0)), arrival_ns)

    def arrive(self, datagram: bytes, arrival_ns: int | None = None) -> None:
        """A datagram reaches the recorder."""
        self._now_ns = max(self._now_ns, arrival_ns or 0)
        self.entries.append(LogEntry(arrival_ns or self._now_ns, 0, 0, datagram))

    def save(self, folder: Path) -> Path:
        """Write the log into `folder` and the disk beside it; returns the disk."""
        if self._seq:
            self.report()
        folder.mkdir(exist_ok=True)
        (folder / LOG_NAME).write_bytes(LOG_HEAD + b"".join(map(make_entry, self.entries)))
        disk = folder / "disk.raw"
        with disk.open("wb") as image:
            image.truncate(self.sectors * SECTOR)
            for lba, data in self.content.items():
                image.seek(lba * SECTOR)
                image.write(data)
        return disk
