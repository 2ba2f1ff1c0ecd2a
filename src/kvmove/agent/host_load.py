"""How busy this host is: CPU, memory, pressure, each VM's QEMU, and how long writes to each datastore take.

Figures are of the time since the measurement before (the manager asks every few seconds); the first says nothing of CPU
and latency. Everything is read from /proc, by the layout of proc(5) and of Linux's Documentation/admin-guide/iostats.

A host may share its kernel with others (a lab, a container): /proc/stat then tells of all of them. With `[load]
of = "processes"` in agent.toml the host's CPU is the sum of the processes that the agent sees, its memory what they
hold.
`cpus` and `memory` say what the host is to count as having, where the kernel would tell of the whole machine.

Blocking; meant for a thread, one call at a time.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from kvmove.agent.config import LoadConfig
from kvmove.agent.host_facts import parse_meminfo
from kvmove.model.host import DatastoreInfo
from kvmove.model.load import DatastoreLoad, HostLoad, VmLoad

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_AVG10 = re.compile(r"^some avg10=(\d+(?:\.\d+)?)", re.MULTILINE)


class Process(NamedTuple):
    """CPU time in ticks since it began, memory in bytes; `vm`: it is this VM's QEMU."""

    started: int
    ticks: int
    memory: int
    vm: UUID | None = None


class _Sample(NamedTuple):
    at: float
    busy: int
    processes: dict[int, Process]
    writes: dict[str, tuple[int, int]]


class LoadMeter:
    """Measures this host. `clock` gives seconds; `proc` is where /proc is."""

    def __init__(
        self, config: LoadConfig, proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._proc = proc
        self._clock = clock
        self._last: _Sample | None = None

    def measure(self, datastores: Iterable[DatastoreInfo]) -> HostLoad:
        """The load since the last call."""
        stores = tuple(datastores)
        now = self._sample(stores)
        before, self._last = self._last or now, now
        seconds = max(now.at - before.at, 1e-3)
        cores = {pid: _ticks(it, before.processes.get(pid)) / _TICKS / seconds for pid, it in now.processes.items()}
        cpus = self._config.cpus or os.cpu_count() or 1
        own = self._config.of == "processes"
        used = sum(cores.values()) if own else (now.busy - before.busy) / _TICKS / seconds
        total, free = parse_meminfo((self._proc / "meminfo").read_text())
        total_here = self._config.memory or total
        held = sum(it.memory for it in now.processes.values()) if own else total - free
        return HostLoad(
            cpus=cpus,
            cpu_used=min(max(used / cpus, 0.0), 1.0),
            memory_total=total_here,
            memory_used=min(held, total_here),
            cpu_pressure=self._pressure("cpu"),
            memory_pressure=self._pressure("memory"),
            io_pressure=self._pressure("io"),
            vms=tuple(
                VmLoad(uuid=it.vm, cpu=round(cores[pid], 3), memory=it.memory)
                for pid, it in now.processes.items()
                if it.vm is not None
            ),
            datastores=tuple(
                DatastoreLoad(name=it.name, write_ms=_write_ms(before.writes, now.writes, it.name)) for it in stores
            ),
        )

    def _sample(self, stores: Iterable[DatastoreInfo]) -> _Sample:
        devices = parse_diskstats((self._proc / "diskstats").read_text())
        writes = {store.name: found for store in stores if (found := devices.get(_device(store.path))) is not None}
        busy = parse_cpu((self._proc / "stat").read_text())
        return _Sample(self._clock(), busy, processes(self._proc), writes)

    def _pressure(self, resource: str) -> float:
        """0 where the kernel does not tell, and where its word is about other hosts too."""
        if self._config.of == "processes":
            return 0.0
        try:
            found = _AVG10.search((self._proc / "pressure" / resource).read_text())
        except OSError:
            return 0.0
        return min(float(found[1]) / 100, 1.0) if found else 0.0


def parse_cpu(text: str) -> int:
    """Ticks that all CPUs together did not idle, from the text of /proc/stat. Guests' time is in `user` already."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = (int(word) for word in text.split("\n", 1)[0].split()[1:])
    return user + nice + system + irq + softirq


def parse_diskstats(text: str) -> dict[str, tuple[int, int]]:
    """For each device, `major:minor`, the writes that are done and the milliseconds that they took, all added up."""
    rows = (line.split() for line in text.splitlines())
    return {f"{row[0]}:{row[1]}": (int(row[7]), int(row[10])) for row in rows if len(row) > 10}


def processes(proc: Path) -> dict[int, Process]:
    """All processes that can be seen; those that end meanwhile are left out."""
    found = {}
    for folder in proc.iterdir():
        if folder.name.isdigit():
            try:
                found[int(folder.name)] = _process(folder)
            except (OSError, ValueError, IndexError):
                continue
    return found


def _process(folder: Path) -> Process:
    """The name in parentheses may hold anything, so fields are counted from behind it: utime is the 14th of proc(5)."""
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    words = (folder / "cmdline").read_bytes().split(b"\0")
    vm = None
    if Path(words[0].decode(errors="replace")).name.startswith("qemu-system-") and b"-uuid" in words:
        vm = UUID(words[words.index(b"-uuid") + 1].decode())
    return Process(int(fields[19]), int(fields[11]) + int(fields[12]), int(fields[21]) * _PAGE, vm)


def _ticks(now: Process, before: Process | None) -> int:
    """What it used meanwhile: all of its time if it is new, as another process may have had its number."""
    return now.ticks - (before.ticks if before is not None and before.started == now.started else 0)


def _device(path: str) -> str:
    try:
        number = Path(path).stat().st_dev
    except OSError:
        return ""
    return f"{os.major(number)}:{os.minor(number)}"


def _write_ms(before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]], store: str) -> float | None:
    if store not in before or store not in now:
        return None
    writes, took = (new - old for new, old in zip(now[store], before[store], strict=True))
    return round(took / writes, 2) if writes > 0 else None
