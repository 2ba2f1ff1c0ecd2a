"""The recorder: takes the guests' datagrams, outside of both hosts, and appends them to one log.

Invariant: what a receipt acknowledges is in the log file. Arrival times are the kernel's, taken as the datagram came
in, so a recorder that is late to read does not bend them. It judges nothing; `recorder_log` reads what it wrote.
"""

import argparse
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Self

from kvmove.errors import CheckFailed, InvalidInput
from kvmove.lab.guest.datagrams import (
    DATAGRAM_MAX,
    LOG_HEAD,
    LOG_NAME,
    DatagramType,
    Head,
    LogEntry,
    make_entry,
    make_head,
    parse_head,
    report_oldest,
)

Address = tuple[str, int]

_SO_TIMESTAMPNS = 35  # Linux asm-generic/socket.h; the control message has the same number
_TIMESPEC = struct.Struct("<qq")
_BUFFER = 8 << 20
_BATCH = 512
_PAUSE = 0.005
_RECEIPT_NS = 40_000_000


class ReceiptBook:
    """Up to which report of each boot all have arrived. Pure."""

    def __init__(self) -> None:
        self._upto: dict[tuple[int, int], int] = {}
        self._beyond: dict[tuple[int, int], set[int]] = {}

    def arrived(self, head: Head, oldest: int) -> int:
        """Take a report; `oldest` is what the guest may still send. Returns the number that may be acknowledged."""
        key = (head.vm, head.boot)
        upto = max(self._upto.get(key, 0), oldest - 1)
        beyond = self._beyond.setdefault(key, set())
        if head.number > upto:
            beyond.add(head.number)
        while upto + 1 in beyond:
            upto += 1
        beyond.difference_update([number for number in beyond if number <= upto])
        self._upto[key] = upto
        return upto


class Recorder:
    """A recorder in a thread of this process; a context manager. `address` with port 0 takes any free port.

    After `stop` everything that arrived is in the log.
    """

    def __init__(self, address: Address, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.setblocking(False)
        try:
            self._socket.bind(address)
        except OSError as error:
            self._socket.close()
            raise CheckFailed(f"the recorder cannot listen on {address[0]}:{address[1]}: {error.strerror}") from error
        self.address: Address = self._socket.getsockname()
        self._log = (folder / LOG_NAME).open("ab", buffering=0)
        if self._log.tell() == 0:
            self._log.write(LOG_HEAD)
        self._book = ReceiptBook()
        self._owed: dict[tuple[int, int], tuple[Head, Address]] = {}
        self._receipts_ns = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the log. Safe to call twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()
        self._log.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while not self._stop.is_set():
            poll.poll(50)
            self._drain()
            time.sleep(_PAUSE)  # batches: the kernel has stamped the arrivals
        self._drain()

    def _drain(self) -> None:
        entries = []
        for _ in range(_BATCH):
            entry = self._receive()
            if entry is None:
                break
            entries.append(entry)
        if entries:
            self._log.write(b"".join(map(make_entry, entries)))
        for entry in entries:
            self._owe_receipt(entry)
        now = time.monotonic_ns()
        if self._owed and now - self._receipts_ns >= _RECEIPT_NS:
            self._receipts_ns = now
            self._send_receipts()

    def _receive(self) -> LogEntry | None:
        try:
            datagram, control, _, sender = self._socket.recvmsg(DATAGRAM_MAX + 1, 64)
        except (BlockingIOError, InterruptedError):
            return None
        late_ns = 0
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(data)
                late_ns = max(0, time.time_ns() - seconds * 10**9 - nanoseconds)
        arrival_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) - late_ns
        return LogEntry(arrival_ns, int.from_bytes(socket.inet_aton(sender[0])), sender[1], datagram)

    def _owe_receipt(self, entry: LogEntry) -> None:
        head = parse_head(entry.datagram)
        if head is None or head.type is not DatagramType.REPORT:
            return
        upto = self._book.arrived(head, report_oldest(entry.datagram))
        receipt = Head(DatagramType.RECEIPT, head.vm, head.boot, upto, 0)
        self._owed[head.vm, head.boot] = (receipt, (socket.inet_ntoa(entry.address.to_bytes(4)), entry.port))

    def _send_receipts(self) -> None:
        for receipt, guest in self._owed.values():
            try:
                self._socket.sendto(make_head(receipt), guest)
            except OSError:
                continue  # the guest's network is away; it sends again
        self._owed.clear()


class RecorderProcess:
    """A recorder in a process of its own, for example behind `prefix=("ip", "netns", "exec", NAME)`. A context manager.

    :raise CheckFailed: it did not come up; its own message is in the error.
    """

    def __init__(self, address: Address, folder: Path, prefix: Sequence[str] = ()) -> None:
        self._command = [*prefix, sys.executable, "-m", "kvmove.lab.guest.recorder"]
        self._command += ["--listen", f"{address[0]}:{address[1]}", "--out", str(folder)]
        self._process: subprocess.Popen[str] | None = None
        self.address = address

    def start(self) -> None:
        process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening "):
            rest = process.stdout.read()
            process.wait()
            process.stdout.close()
            raise CheckFailed(f"the recorder did not start: {(line + rest).strip()[-500:]}")
        self._process = process
        self.address = parse_address(line.split()[1])

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def stop(self) -> None:
        """End it; everything that arrived is in the log. Safe to call twice."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.communicate()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def parse_address(text: str) -> Address:
    """`10.0.0.1:7000` as host and port.

    :raise InvalidInput: it is not.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise InvalidInput(f"{text!r} is no address; write for example 10.0.0.1:7000")
    return host, int(port)


def main() -> None:
    """`python -m kvmove.lab.guest.recorder --listen IP:PORT --out DIR`; ends on SIGTERM."""
    parser = argparse.ArgumentParser(description="Record the datagrams of ledger guests.")
    parser.add_argument("--listen", required=True, type=parse_address)
    parser.add_argument("--out", required=True, type=Path)
    given = parser.parse_args()
    done = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        done.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    try:
        recorder = Recorder(given.listen, given.out)
    except CheckFailed as error:
        sys.exit(f"recorder: {error}")
    with recorder:
        sys.stdout.write(f"listening {recorder.address[0]}:{recorder.address[1]}\n")
        sys.stdout.flush()
        done.wait()


if __name__ == "__main__":
    main()
