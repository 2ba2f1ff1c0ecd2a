"""Finds two running copies of one VM by two signals that know nothing of each other: CPU time of the vCPU threads,
and what the guest itself sends. Pure; `cpu_sampler` and `recorder_log` gather.

One-sided: what it reports cannot be explained by one copy that was handed over. An idle guest uses too little CPU
time for the first signal; its heartbeats still count.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from kvmove.lab.guest.cpu_sampler import CpuSample
from kvmove.lab.guest.recorder_log import RecorderLog
from kvmove.lab.guest.timeline import Window

_ACTIVE_NS = 2_000_000  # less in a sample is QEMU's own housekeeping on a vCPU thread of a stopped VM
_ACTIVE_SHARE = 5  # and so is less than a fifth of the time
_TOLERANCE_NS = 10_000_000  # the kernel books CPU time up to one tick late


class Handover(NamedTuple):
    """The VM was to run as `first` and then as `second` (names of the samples); looked at within `window` only, if
    given.

    A move that is undone after the destination ran is two hand-overs: give each its window.
    """

    first: str = "source"
    second: str = "destination"
    window: Window | None = None


class Violation(NamedTuple):
    """Two copies ran. `signal` is cpu, heartbeat or report; `at_ns` about when; `detail` is a sentence."""

    signal: str
    at_ns: int
    detail: str


class _Activity(NamedTuple):
    """Between two samples the vCPUs ran for `cpu_ns`, at some time from `start_ns` to `end_ns`."""

    start_ns: int
    end_ns: int
    cpu_ns: int


def activities(samples: Sequence[CpuSample], window: Window | None = None) -> list[_Activity]:
    """The times between two samples in which the vCPUs really ran."""
    found = []
    for before, after in pairwise(samples):
        cpu_ns = after.cpu_ns - before.cpu_ns
        inside = window is None or (before.at_ns >= window.start_ns and after.at_ns <= window.end_ns)
        if inside and cpu_ns >= max(_ACTIVE_NS, (after.at_ns - before.at_ns) // _ACTIVE_SHARE):
            found.append(_Activity(before.at_ns, after.at_ns, cpu_ns))
    return found


def cpu_overlap(first: Sequence[_Activity], second: Sequence[_Activity]) -> tuple[int, int]:
    """For how long, at least, `first` still ran after `second` had begun, and when; (0, 0) when it need not have.

    A thread that used c of the time from a to b ran until a+c at the least and began at b-c at the latest.
    """
    if not first or not second:
        return 0, 0
    ended = max(activity.start_ns + min(activity.cpu_ns, activity.end_ns - activity.start_ns) for activity in first)
    began = min(activity.end_ns - min(activity.cpu_ns, activity.end_ns - activity.start_ns) for activity in second)
    overlap = ended - began - _TOLERANCE_NS
    return (overlap, began) if overlap > 0 else (0, 0)


class DualRunDetector:
    """Judges one recorder's log and the samples of one sampler."""

    def __init__(self, log: RecorderLog, samples: Mapping[str, Sequence[CpuSample]] | None = None) -> None:
        self._log = log
        self._samples = samples or {}

    def violations(self, vm: int, handover: Handover | None = None) -> list[Violation]:
        """Every sign that two copies of `vm` ran; empty is good. Without `handover` only the guest's own signals
        count.
        """
        found = self._guest_violations(vm)
        if handover is not None:
            first = activities(self._samples.get(handover.first, ()), handover.window)
            second = activities(self._samples.get(handover.second, ()), handover.window)
            overlap, at_ns = cpu_overlap(first, second)
            if overlap:
                detail = f"{handover.first} still ran {overlap / 1e6:.0f} ms or more after {handover.second} had begun"
                found.append(Violation("cpu", at_ns, detail))
        return found

    def _guest_violations(self, vm: int) -> list[Violation]:
        faults = self._log.heartbeat_faults(vm)
        found = []
        if faults.duplicates or faults.regressions:
            detail = f"{faults.duplicates} heartbeats came twice and {faults.regressions} came after a later one"
            found.append(Violation("heartbeat", faults.first_ns, detail))
        if faults.forked_reports:
            detail = f"{faults.forked_reports} reports came again with another content"
            found.append(Violation("report", faults.first_ns, detail))
        return found
