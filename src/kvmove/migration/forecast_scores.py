"""What past moves say of forecasts: how far they were off, and how each phase is to be corrected. Pure.

A past move counts for a new one as far as it is like it: off or not as it, within a host or between two as it, and
less where the NICs, the encryption, the hosts, the VM, or whether disks come along differ. Of each phase the ratio
real / forecast is taken before any correction, so corrections do not build on one another.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from kvmove.migration.forecast import DOWNTIME, UNSURE, Correction
from kvmove.model.forecast import Forecast
from kvmove.model.move import MoveKind, MovePlan, MoveReport, Phase
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import Power

NEWEST = 30
"""So many past moves are looked at; older ones were of other times."""

PRIOR = 1.0
"""The word of past moves weighs as many moves as there are, against this much for the forecast's own."""

PRIOR_SPREAD = 1.5
"""So many moves weighs what a phase is unsure of by itself."""

UNLIKE = 0.6
"""So much a past move counts for each thing in which it differs."""

LEAST_UNSURE = 0.08
FARTHEST = math.log(4)
"""A ratio beyond this is a mishap, and counts as this."""


def scored(tasks: Iterable[Task]) -> list[Task]:
    """The newest moves that were forecast and succeeded. `tasks` newest first."""
    found = [it for it in tasks if it.state is TaskState.SUCCEEDED and it.forecast and it.report and it.plan]
    return found[:NEWEST]


def error_of(forecast: Forecast, seconds: float) -> float:
    """How far the likely time was off, as a share of the real `seconds`."""
    return abs(forecast.seconds - seconds) / max(seconds, 0.001)


def past_error(tasks: Sequence[Task]) -> float | None:
    """The median error of scored moves; None: there are none."""
    errors = [error_of(task.forecast, task.report.seconds) for task in tasks if task.forecast and task.report]
    return round(statistics.median(errors), 4) if errors else None


def corrections(plan: MovePlan, tasks: Sequence[Task]) -> dict[str, Correction]:
    """What scored moves say of each part of a move by `plan`."""
    ratios: dict[str, list[tuple[float, float]]] = {}
    for task in tasks:
        if task.plan is None or task.forecast is None or task.report is None:
            continue
        if weight := _likeness(plan, task.plan):
            for part, ratio in _ratios(task.forecast.parts, task.report):
                ratios.setdefault(part, []).append((ratio, weight))
    return {part: _correction(part, found) for part, found in ratios.items()}


def _likeness(plan: MovePlan, past: MovePlan) -> float:
    if _manner(plan) != _manner(past):
        return 0.0
    weight = 1.0
    for one, other in (
        (plan.kind, past.kind),
        (plan.encrypt, past.encrypt),
        ({route.nic for route in plan.routes}, {route.nic for route in past.routes}),
        ({plan.source.name, plan.destination.name}, {past.source.name, past.destination.name}),
        (plan.vm.uuid, past.vm.uuid),
    ):
        weight *= 1.0 if one == other else UNLIKE
    return weight


def _manner(plan: MovePlan) -> tuple[bool, bool, bool]:
    """What two moves must have in common to say anything of one another: they go through the same steps."""
    return plan.kind is MoveKind.STORAGE, plan.power is Power.OFF, plan.over_storage


def _ratios(parts: Mapping[str, float], report: MoveReport) -> Iterable[tuple[str, float]]:
    """The logarithm of real / forecast, by part."""
    real: dict[str, float] = {DOWNTIME: report.downtime_ms / 1000}
    for time in report.phases:
        real[time.phase] = real.get(time.phase, 0.0) + time.seconds
    for part, expected in parts.items():
        if expected > 0 and real.get(part, 0.0) > 0:
            yield part, min(max(math.log(real[part] / expected), -FARTHEST), FARTHEST)


def _correction(part: str, found: Sequence[tuple[float, float]]) -> Correction:
    weight = sum(one for _, one in found)
    middle = _median(found) * weight / (weight + PRIOR)
    own = UNSURE[Phase(part)] if part in UNSURE else LEAST_UNSURE
    scatter = sum(one * (ratio - middle) ** 2 for ratio, one in found)
    unsure = math.sqrt((own**2 * PRIOR_SPREAD + scatter) / (PRIOR_SPREAD + weight))
    return Correction(math.exp(middle), max(unsure, LEAST_UNSURE))


def _median(found: Sequence[tuple[float, float]]) -> float:
    """The weighted median."""
    half, sum_ = sum(one for _, one in found) / 2, 0.0
    for ratio, one in sorted(found):
        sum_ += one
        if sum_ >= half:
            return ratio
    return 0.0
