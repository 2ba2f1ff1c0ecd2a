"""CPU time of two processes: a hand-over is good however late the samples are, and two at once are found."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.errors import CheckFailed
from kvmove.lab.guest.cpu_sampler import CpuSample, CpuSampler, vcpu_threads
from kvmove.lab.guest.dual_run import DualRunDetector, Handover, activities, cpu_overlap
from kvmove.lab.guest.recorder_log import RecorderLog
from kvmove.lab.guest.timeline import Window
from tests.support.ledger_world import LedgerWorld

_MS = 10**6
_HANDOVER = Handover("source", "destination")


@pytest.fixture
def log(tmp_path: Path) -> RecorderLog:
    LedgerWorld().save(tmp_path)
    return RecorderLog(tmp_path)


def _samples(runs: range, looks: list[int]) -> list[CpuSample]:
    """A thread that runs all the time of `runs`, looked at at `looks` (milliseconds)."""
    return [CpuSample(at * _MS, max(0, min(at, runs.stop) - runs.start) * _MS) for at in looks]


_LOOKS = list(range(0, 1000, 5))


def test_one_after_the_other_is_a_hand_over(log: RecorderLog) -> None:
    samples = {"source": _samples(range(0, 500), _LOOKS), "destination": _samples(range(560, 1000), _LOOKS)}
    assert DualRunDetector(log, samples).violations(1, _HANDOVER) == []


def test_both_at_once_is_a_dual_run(log: RecorderLog) -> None:
    samples = {"source": _samples(range(0, 600), _LOOKS), "destination": _samples(range(500, 1000), _LOOKS)}
    [violation] = DualRunDetector(log, samples).violations(1, _HANDOVER)
    assert violation.signal == "cpu"
    assert 480 * _MS <= violation.at_ns <= 520 * _MS


def test_a_source_that_comes_back_after_the_destination_ran_is_a_dual_run(log: RecorderLog) -> None:
    source = _samples(range(0, 300), _LOOKS)
    source = [
        CpuSample(at, cpu + again.cpu_ns)
        for (at, cpu), again in zip(source, _samples(range(700, 800), _LOOKS), strict=True)
    ]
    samples = {"source": source, "destination": _samples(range(400, 600), _LOOKS)}
    detector = DualRunDetector(log, samples)
    assert detector.violations(1, _HANDOVER)
    first = Handover("source", "destination", Window(0, 650 * _MS))
    back = Handover("destination", "source", Window(350 * _MS, 1000 * _MS))
    assert detector.violations(1, first) == detector.violations(1, back) == []


_TIMES = st.sets(st.integers(0, 1000), min_size=2)


@given(_TIMES, _TIMES, st.integers(0, 1000))
def test_a_hand_over_is_never_called_a_dual_run_however_rarely_it_was_looked_at(
    source: set[int], destination: set[int], at: int
) -> None:
    first = activities(_samples(range(0, at), sorted(source)))
    second = activities(_samples(range(at, 1000), sorted(destination)))
    assert cpu_overlap(first, second) == (0, 0)


@contextmanager
def _burner() -> Iterator[int]:
    """A process that does nothing but use CPU time, once it runs."""
    code = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def _burn(sampler: CpuSampler, name: str, milliseconds: int) -> None:
    """Wait until the process `name` has used so much CPU time from now on."""
    start = len(sampler.samples[name])
    for _ in range(3000):
        seen = sampler.samples[name][start:]
        if seen and seen[-1].cpu_ns - seen[0].cpu_ns > milliseconds * _MS:
            return
        time.sleep(0.01)
    raise AssertionError(f"{name} gets no CPU time")


def test_two_processes_that_use_the_cpu_at_once_are_a_dual_run(log: RecorderLog) -> None:
    with CpuSampler() as sampler, _burner() as source, _burner() as destination:
        sampler.add("source", source, [source])
        sampler.add("destination", destination, [destination])
        _burn(sampler, "destination", 100)
        _burn(sampler, "source", 100)
    assert DualRunDetector(log, sampler.samples).violations(1, _HANDOVER)


def test_two_processes_one_after_the_other_are_not(log: RecorderLog) -> None:
    with CpuSampler() as sampler:
        with _burner() as source:
            sampler.add("source", source, [source])
            _burn(sampler, "source", 100)
        with _burner() as destination:
            sampler.add("destination", destination, [destination])
            _burn(sampler, "destination", 100)
    assert DualRunDetector(log, sampler.samples).violations(1, _HANDOVER) == []


def test_a_process_without_vcpus_is_refused() -> None:
    with _burner() as process, pytest.raises(CheckFailed, match="no vCPU threads"):
        vcpu_threads(process)


def test_the_end_of_a_process_with_much_memory_is_no_activity() -> None:
    code = "import os\nmemory = bytearray(512 << 20)\nprint(flush=True)\nos.read(0, 1)\nos._exit(0)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        with CpuSampler(interval=0.001) as sampler:
            sampler.add("source", process.pid, [process.pid])
            process.communicate(b"x")
    assert activities(sampler.samples["source"]) == []
