"""Samples how much CPU time the vCPU threads of some processes have used (/proc/PID/task/TID/schedstat, nanoseconds).

It only measures; `dual_run` judges. A process that ends simply gives no more samples, and gives none from the moment
it begins to end: the kernel books the release of the guest's whole memory, milliseconds of it, to whichever thread
leaves last.
"""

import os
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from kvmove.errors import CheckFailed
from kvmove.lab.guest.recorder_log import now_ns

_VCPU = re.compile(r"(CPU \d+|ALL CPUs)/(KVM|TCG)")  # QEMU's thread names, with -name debug-threads=on


_EXITING = 0x4  # PF_EXITING in the flags of /proc/PID/task/TID/stat, Linux include/linux/sched.h


class CpuSample(NamedTuple):
    """CPU time that the threads of one process had used, in sum, at `at_ns` (CLOCK_MONOTONIC_RAW)."""

    at_ns: int
    cpu_ns: int


def vcpu_threads(pid: int) -> list[int]:
    """Thread ids of a QEMU's vCPUs.

    :raise CheckFailed: none can be told; QEMU runs without `-name debug-threads=on`, or not at all.
    """
    found = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        with suppress(OSError):
            if _VCPU.match((task / "comm").read_text()):
                found.append(int(task.name))
    if not found:
        raise CheckFailed(
            f"process {pid} has no vCPU threads by name", hint="start QEMU with -name VM,debug-threads=on"
        )
    return found


class CpuSampler:
    """Samples processes under names of the caller's choice; a context manager with a thread of its own."""

    def __init__(self, processes: Mapping[str, int] | None = None, interval: float = 0.005) -> None:
        self.samples: dict[str, list[CpuSample]] = {}
        self._interval = interval
        self._files: dict[str, list[_ThreadFiles]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu-sampler", daemon=True)
        for name, pid in (processes or {}).items():
            self.add(name, pid)

    def add(self, name: str, pid: int, threads: Sequence[int] | None = None) -> None:
        """Sample `pid`'s vCPU threads (or the given `threads`) as `name` from now on, also while running.

        :raise CheckFailed: no such threads.
        """
        files = [_ThreadFiles(pid, thread) for thread in threads or vcpu_threads(pid)]
        with self._lock:
            for old in self._files.pop(name, []):
                old.close()
            self._files[name] = files
            self.samples.setdefault(name, [])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for files in self._files.values():
            for file in files:
                file.close()
        self._files.clear()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            with self._lock:
                for name, files in self._files.items():
                    with suppress(ProcessLookupError):
                        sample = CpuSample(now_ns(), sum(file.cpu_ns() for file in files))
                        if not any(file.exiting() for file in files):
                            self.samples[name].append(sample)


class _ThreadFiles:
    """What the kernel tells of one thread, kept open.

    :raise CheckFailed: there is no such thread.
    """

    def __init__(self, pid: int, thread: int) -> None:
        folder = Path(f"/proc/{pid}/task/{thread}")
        self._files: list[int] = []
        try:
            for name in ("schedstat", "stat"):
                self._files.append(os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            self.close()
            raise CheckFailed(f"thread {thread} of process {pid} cannot be watched: {error.strerror}") from error

    def cpu_ns(self) -> int:
        return int(os.pread(self._files[0], 64, 0).split()[0])

    def exiting(self) -> bool:
        """Whether the thread has begun to end; ask after `cpu_ns`, so that what was read is from before."""
        after_name = os.pread(self._files[1], 512, 0).rpartition(b")")[2].split()
        return bool(int(after_name[6]) & _EXITING)

    def close(self) -> None:
        for file in self._files:
            os.close(file)
