"""Watches the vCPUs of both QEMUs of a move, whenever they come: did both run, did one run that never may?

A thin layer over the lab's sampler, which wants to be told of each process.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from kvmove.errors import CheckFailed
from kvmove.lab.guest.cpu_sampler import CpuSampler
from kvmove.lab.guest.dual_run import activities, cpu_overlap

INTERVAL = 0.02
LOOK_SECONDS = 0.1


class VcpuWatch:
    """From the first look to the end of the `with`. `arrival` gives the destination's QEMU once there is one."""

    def __init__(self, source: int, arrival: Callable[[], int | None]) -> None:
        self._sampler = CpuSampler({"source": source}, INTERVAL)
        self._arrival = arrival
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="arrival", daemon=True)

    def __enter__(self) -> Self:
        self._sampler.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object | TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sampler.__exit__()

    def _look(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            pid = self._arrival()
            if pid is not None:
                with suppress(CheckFailed):
                    self._sampler.add("destination", pid)
                    return

    def destination_ran(self) -> bool:
        """Whether the destination's vCPUs used time that a paused guest does not."""
        return bool(activities(self._sampler.samples.get("destination", ())))

    def both_ran_ns(self) -> int:
        """For how long at least the source still ran after the destination had begun."""
        samples = self._sampler.samples
        overlap, _ = cpu_overlap(activities(samples.get("source", ())), activities(samples.get("destination", ())))
        return overlap
