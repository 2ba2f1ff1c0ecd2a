"""How good forecasts are: real guests are moved in many ways, each move forecast first as an operator would have it.

The lab's manager begins without any past, so the first moves show the forecast's own constants and the later ones
what it learns. What a move really took is what its report says.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmove.lab import ledger_vm
from kvmove.lab.commands import LabFailed
from kvmove.lab.forecast_cases import CASES, FORECAST_LAB, Way
from kvmove.lab.guest.image import GuestImage, build
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.moving import Audience, follow
from kvmove.model.move import MoveKind
from kvmove.model.strict import Strict
from kvmove.model.vm import Power

SETTLE_SECONDS = 1.5

ENOUGH = 0.8
"""Of all moves so many must end inside their band."""


class ForecastRun(Strict):
    """One move: what was said (seconds, bytes, ms), what it was, and how long the forecast itself took (`asked`)."""

    case: str
    kind: MoveKind
    power: Power
    asked: float
    low: float
    likely: float
    high: float
    real: float
    inside: bool
    error: float
    bytes: int
    sent: int
    downtime_ms: float
    real_downtime_ms: float
    converges: bool | None
    why: str
    parts: dict[str, float]
    real_parts: dict[str, float]


class ForecastResult(Strict):
    """`median_error` is the share of the real time by which the likely one was off, `band` the median of high / low."""

    moves: int
    inside_band: int
    median_error: float
    band: float
    cases: tuple[ForecastRun, ...]

    @property
    def good(self) -> bool:
        return self.inside_band >= ENOUGH * self.moves


@dataclass(frozen=True)
class _Bench:
    lab: Lab
    image: GuestImage
    audience: Audience


async def run_forecasts(
    guest_folder: Path, audience: Audience, cases: Sequence[tuple[LedgerVm, tuple[Way, ...]]] = CASES
) -> ForecastResult:
    """Forecast and make all moves of `cases` in a lab of their own; leave nothing behind.

    :raise KvmoveError: the lab could not be built, or a move did not succeed.
    """
    image = await asyncio.to_thread(build, guest_folder)
    runs: list[ForecastRun] = []
    async with Lab.passing("forecast", FORECAST_LAB) as lab:
        bench = _Bench(lab, image, audience)
        for vm, ways in cases:
            runs += await _moves(bench, vm, ways)
    return ForecastResult(
        moves=len(runs),
        inside_band=sum(run.inside for run in runs),
        median_error=round(statistics.median(run.error for run in runs), 4),
        band=round(statistics.median(run.high / run.low for run in runs), 2),
        cases=tuple(runs),
    )


async def _moves(bench: _Bench, vm: LedgerVm, ways: Sequence[Way]) -> list[ForecastRun]:
    """All moves of one guest; it is gone afterwards."""
    manager = bench.lab.manager
    bench.audience.say(f"starting {vm.name} on {bench.lab.spec.hosts[0]}")
    await ledger_vm.define(bench.lab, vm, bench.image, bench.lab.spec.hosts[0])
    await ledger_vm.start(bench.lab, vm)
    runs = []
    for way in ways:
        await _bring_to(bench.lab, vm, way.power)
        await asyncio.sleep(SETTLE_SECONDS)
        runs.append(await _move(bench, vm, way))
    if ways[-1].power is not Power.OFF:
        await manager.kill_vm(str(vm.uuid))
    await manager.delete_vm(str(vm.uuid))
    return runs


async def _bring_to(lab: Lab, vm: LedgerVm, power: Power) -> None:
    state = (await lab.manager.vm(str(vm.uuid))).state
    if state.value == power.value:
        return
    if power is Power.RUNNING:
        raise LabFailed(f"{vm.name} is {state}: its moves are in a wrong order")
    await (lab.manager.pause_vm if power is Power.PAUSED else lab.manager.kill_vm)(str(vm.uuid))


async def _move(bench: _Bench, vm: LedgerVm, way: Way) -> ForecastRun:
    manager = bench.lab.manager
    here = (await manager.vm(str(vm.uuid))).host
    request = way.request(vm.name, next(host for host in bench.lab.spec.hosts if host != here))
    began = time.monotonic()
    checked = await manager.check_move(request, forecast=True)
    asked = time.monotonic() - began
    task = await follow(bench.lab, await manager.start_move(request), bench.audience)
    said, report = task.forecast, task.report
    if said is None or report is None or said != checked.forecast:
        raise LabFailed(f"the task {task.id} did not keep its forecast, or has no report")
    real = report.seconds
    run = ForecastRun(
        case=f"{vm.name}: {way.name}", kind=checked.plan.kind, power=way.power, asked=round(asked, 2),
        low=said.seconds_low, likely=said.seconds, high=said.seconds_high, real=real,
        inside=said.seconds_low <= real <= said.seconds_high, error=round(abs(said.seconds - real) / real, 4),
        bytes=said.bytes, sent=sum(report.bytes_per_nic.values()), downtime_ms=said.downtime_ms,
        real_downtime_ms=report.downtime_ms, converges=said.converges, why=said.why, parts=said.parts,
        real_parts={str(phase.phase): phase.seconds for phase in report.phases},
    )  # fmt: skip
    bench.audience.say(
        f"{run.case}: {run.likely:.1f} s ({run.low:.1f}-{run.high:.1f}), it was {run.real:.1f} s"
        f"{'' if run.inside else ', OUTSIDE'}"
    )
    return run
