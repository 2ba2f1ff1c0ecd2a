"""What the benchmark found, as data. The keys are a promise: other programs read them."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kvmove.model.strict import Strict


class LatencyMs(Strict):
    """Of the guest's writes while it was moved: milliseconds, by the guest's clock."""

    p50: float
    p99: float
    worst: float


class SideResult(Strict):
    """One side of a scenario. None is: it has no such figure.

    `wire_limit_seconds` is what was to be moved (the disk's data and the memory that the guest had touched) at the rate
    that the wire carries. `seconds` is from the request to the end, or to when it was given up: `converged` is False
    then. Writes and latency are those until the switchover; `downtime_ms` is how long the guest's clock stood still.
    `cpu_seconds_per_gib` is what the machine did beside the guest, for each GiB that was to be moved.
    """

    seconds: float
    wire_limit_seconds: float
    bytes_sent: int
    writes_per_second: float | None = None
    latency_ms: LatencyMs | None = None
    downtime_ms: float | None = None
    cpu_seconds_per_gib: float | None = None
    allocated_bytes: int | None = None
    converged: bool = True


class SideRun(Strict):
    """One run of one side; `series` has the guest's completed writes a second, one figure for each `SERIES_SECONDS`,
    from the request on."""

    scenario: str
    side: str
    result: SideResult
    series: tuple[float, ...] = ()


SERIES_SECONDS = 0.25

BenchResult = Mapping[str, Mapping[str, SideResult]]


def summary(runs: Sequence[SideRun]) -> dict[str, dict[str, SideResult]]:
    """By scenario and side, in the order of the runs: each figure the median of its runs; converged if all did."""
    found: dict[str, dict[str, SideResult]] = {}
    for run in runs:
        same = [it.result for it in runs if (it.scenario, it.side) == (run.scenario, run.side)]
        found.setdefault(run.scenario, {})[run.side] = _median(same)
    return found


def read_runs(folder: Path) -> list[SideRun]:
    """Each run that `kvmove lab bench` left in `folder`.

    :raise OSError: it left none.
    """
    return [SideRun.model_validate(run) for run in json.loads((folder / "bench-runs.json").read_text())]


def spread(runs: Sequence[SideRun], figure: Callable[[SideResult], float | None]) -> float | None:
    """(largest - smallest) / median of a figure over runs of one side; None with fewer than two."""
    values = [value for run in runs if (value := figure(run.result)) is not None]
    if len(values) < 2 or not (middle := statistics.median(values)):
        return None
    return (max(values) - min(values)) / middle


def _median(results: Sequence[SideResult]) -> SideResult:
    def middle(figure: Callable[[SideResult], float | None], digits: int = 2) -> float | None:
        values = [value for it in results if (value := figure(it)) is not None]
        return round(statistics.median(values), digits) if values else None

    latencies = [it.latency_ms for it in results if it.latency_ms is not None]
    latency = (
        LatencyMs(
            p50=round(statistics.median(it.p50 for it in latencies), 2),
            p99=round(statistics.median(it.p99 for it in latencies), 2),
            worst=round(statistics.median(it.worst for it in latencies), 2),
        )
        if latencies
        else None
    )
    allocated = [it.allocated_bytes for it in results if it.allocated_bytes is not None]
    return SideResult(
        seconds=middle(lambda it: it.seconds) or 0.0,
        wire_limit_seconds=middle(lambda it: it.wire_limit_seconds) or 0.0,
        bytes_sent=int(statistics.median(it.bytes_sent for it in results)),
        writes_per_second=middle(lambda it: it.writes_per_second, 1),
        latency_ms=latency,
        downtime_ms=middle(lambda it: it.downtime_ms, 1),
        cpu_seconds_per_gib=middle(lambda it: it.cpu_seconds_per_gib),
        allocated_bytes=int(statistics.median(allocated)) if allocated else None,
        converged=all(it.converged for it in results),
    )
