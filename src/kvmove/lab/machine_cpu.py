"""What processor time a move costs beside its guest: of the whole machine, without the guest's vCPUs.

The whole machine's, because that has everything a contestant causes in it, the kernel's network included; so nothing
else may run meanwhile. What the lab itself takes (the recorder, a look at the task) is in it, for each contestant.
"""

import asyncio
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from kvmove.lab.guest.cpu_sampler import CpuSampler, vcpu_threads
from kvmove.lab.lab_host import LabHost

LOOK_SECONDS = 0.1
_IDLE_COLUMNS = (3, 4)
"""idle and iowait in the first line of /proc/stat, Linux Documentation/filesystems/proc.rst."""


def busy_seconds(stat: str) -> float:
    """What all processors were busy since the start, from the text of /proc/stat; seconds."""
    columns = [int(word) for word in stat.splitlines()[0].split()[1:9]]
    busy = sum(value for number, value in enumerate(columns) if number not in _IDLE_COLUMNS)
    return busy / os.sysconf("SC_CLK_TCK")


def _busy_now() -> float:
    return busy_seconds(Path("/proc/stat").read_text())


class MachineCpu:
    """A context manager around a move; `seconds` afterwards. Each host runs one guest's QEMU at most."""

    def __init__(self, source: LabHost, destination: LabHost) -> None:
        self.seconds = 0.0
        self._source, self._destination = source, destination
        self._sampler: CpuSampler | None = None
        self._busy_before = 0.0

    async def __aenter__(self) -> Self:
        [pid] = (await asyncio.to_thread(self._source.qemu_pids)).values()
        self._sampler = CpuSampler({"source": pid}, LOOK_SECONDS)
        self._sampler.__enter__()
        self._busy_before = _busy_now()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        busy = _busy_now() - self._busy_before
        assert self._sampler is not None
        self._sampler.__exit__(kind, error, where)
        samples = self._sampler.samples["source"]
        guest = (samples[-1].cpu_ns - samples[0].cpu_ns) / 1e9 if samples else 0.0
        self.seconds = max(0.0, busy - guest - await asyncio.to_thread(self._at_the_destination))

    def _at_the_destination(self) -> float:
        """What the vCPUs have run there since they came; seconds."""
        ticks = 0.0
        for pid in self._destination.qemu_pids().values():
            for thread in vcpu_threads(pid):
                ticks += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]) / 1e9
        return ticks
