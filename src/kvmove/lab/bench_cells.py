"""A side's result as the cells of a table, for the terminal and for the page alike. Pure."""

from collections.abc import Mapping, Sequence

from kvmove.lab.bench_results import SideResult, SideRun, spread
from kvmove.units import format_duration, format_size


def figures(one: SideResult, runs: Sequence[SideRun]) -> Mapping[str, str]:
    """Column heading to figure; `one` is the median of `runs`. Empty is: it has no such figure."""
    latency = one.latency_ms
    apart = spread(runs, lambda it: it.seconds)
    return {
        "time": format_duration(one.seconds) + _given_up(runs),
        "spread": "" if apart is None else f"{100 * apart:.0f} %",
        "of the wire's": f"{one.seconds / one.wire_limit_seconds:.2f}" if one.wire_limit_seconds else "",
        "sent": format_size(one.bytes_sent),
        "writes/s": "" if one.writes_per_second is None else f"{one.writes_per_second:.0f}",
        "p50 ms": f"{latency.p50:.1f}" if latency else "",
        "p99 ms": f"{latency.p99:.1f}" if latency else "",
        "worst ms": f"{latency.worst:.0f}" if latency else "",
        "stood still": "" if one.downtime_ms is None else f"{one.downtime_ms:.0f} ms",
        "CPU s/GiB": "" if one.cpu_seconds_per_gib is None else f"{one.cpu_seconds_per_gib:.1f}",
        "allocated": "" if one.allocated_bytes is None else format_size(one.allocated_bytes),
    }


def _given_up(runs: Sequence[SideRun]) -> str:
    given_up = sum(not run.result.converged for run in runs)
    if not given_up:
        return ""
    return ", given up" if given_up == len(runs) else f", given up in {given_up} of {len(runs)} runs"
