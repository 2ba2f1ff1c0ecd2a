"""The benchmark: each scenario in a lab of its own, each side in turn with the same guest and disk, one by one.

Absolute figures of this kind of bench are not stable from run to run (see docs/lab.md): quote the ratios of one run.
Deliberately not here: how a side moves its guest (contestants), and what is made of the figures (cli, pictures).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kvmove.errors import KvmoveError
from kvmove.lab import observation, preparation
from kvmove.lab.bench_results import SERIES_SECONDS, LatencyMs, SideResult, SideRun
from kvmove.lab.bench_scenarios import Scenario, Side
from kvmove.lab.contestants import SYNCHRONOUS, Contestants, Ran
from kvmove.lab.guest.image import build
from kvmove.lab.guest.recorder_log import RecorderLog
from kvmove.lab.guest.timeline import Window
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.moving import Audience
from kvmove.lab.wire import wire_rate
from kvmove.units import GIB, format_duration, format_rate

SETTLE = 3.0


@dataclass(frozen=True)
class BenchOutcome:
    """All runs that succeeded, and in sentences which did not."""

    runs: tuple[SideRun, ...]
    findings: tuple[str, ...]


async def run_bench(
    scenarios: Sequence[Scenario], sides: Sequence[Side], rounds: int, guest_folder: Path, audience: Audience
) -> BenchOutcome:
    """Run the sides of each scenario `rounds` times, in turn, so that a machine that slows down slows all of them.

    :raise KvmoveError: a lab could not be built, or its wire cannot be measured.
    """
    image = await asyncio.to_thread(build, guest_folder)
    runs: list[SideRun] = []
    findings: list[str] = []
    for scenario in scenarios:
        audience.say(f"\n{scenario.name}")
        async with Lab.passing("bench", scenario.lab()) as lab:
            bench = _Bench(scenario, Contestants(lab, image, audience, SETTLE))
            await bench.measure_wire()
            for _ in range(rounds):
                for side in sides:
                    try:
                        runs.append(await bench.run(side))
                    except KvmoveError as error:
                        findings.append(f"{scenario.name}, {side}: {error.detail}")
                        audience.say(f"  {side} did not move its guest: {error.detail}")
    return BenchOutcome(tuple(runs), tuple(findings))


class _Bench:
    """One scenario in its lab."""

    def __init__(self, scenario: Scenario, contestants: Contestants) -> None:
        self.scenario = scenario
        self.contestants = contestants
        self._guests = 0
        self._rate = 0.0
        self._to_move = scenario.vm.data
        self._log: RecorderLog | None = None

    async def measure_wire(self) -> None:
        here = self.contestants
        self._rate = await wire_rate(here.source, here.destination, len(self.scenario.nics))
        here.audience.say(f"the wire carries {format_rate(self._rate)}")

    async def run(self, side: Side) -> SideRun:
        """:raise KvmoveError: the side could not move its guest."""
        if side is Side.WIRE:
            seconds = round(self._to_move / self._rate, 2)
            wire = SideResult(seconds=seconds, wire_limit_seconds=seconds, bytes_sent=self._to_move)
            return SideRun(scenario=self.scenario.name, side=side, result=wire)
        self._guests += 1
        vm = replace(self.scenario.vm, name=f"{side.replace('_', '-')}-{self._guests}", number=self._guests)
        ran = await self._moved(side, vm)
        self._to_move = ran.to_move
        return await asyncio.to_thread(self._judged, side, vm, ran)

    async def _moved(self, side: Side, vm: LedgerVm) -> Ran:
        here = self.contestants
        limit = self.scenario.limit(side, self._to_move / self._rate)
        match side:
            case Side.KVMOVE | Side.KVMOVE_PLAIN:
                return await here.kvmove(vm, self.scenario.nic_names, encrypt=side is Side.KVMOVE)
            case Side.LIBVIRT_DEFAULT:
                return await here.libvirt(vm, (), limit)
            case Side.LIBVIRT_SYNC:
                return await here.libvirt(vm, SYNCHRONOUS, limit)
        return await here.qemu(vm, limit)

    def _judged(self, side: Side, vm: LedgerVm, ran: Ran) -> SideRun:
        log = self._read_log()
        at = ran.at
        seconds = (at.ended - at.asked) / 1e9
        seen = observation.guest_figures(log, vm.number, at)
        copying = seen.copying if ran.converged else Window(at.asked, at.ended)
        gib = ran.to_move / GIB
        result = SideResult(
            seconds=round(seconds, 2), wire_limit_seconds=round(ran.to_move / self._rate, 2), bytes_sent=ran.sent,
            writes_per_second=round(log.write_rate(vm.number, copying), 1),
            latency_ms=_latency(log.latencies(vm.number, copying)),
            downtime_ms=seen.guest_downtime_ms if ran.converged else None,
            cpu_seconds_per_gib=round(ran.cpu_seconds / gib, 2) if ran.converged else None,
            allocated_bytes=ran.allocated if ran.converged else None, converged=ran.converged,
        )  # fmt: skip
        whole = Window(at.asked, at.left)
        series = log.writes_per_second(vm.number, whole, int(SERIES_SECONDS * observation.SECOND))
        log.forget(vm.number)
        self.contestants.audience.say(
            f"  {format_duration(seconds)}{'' if ran.converged else ', given up'}; the wire would have taken "
            f"{format_duration(result.wire_limit_seconds)}"
        )
        return SideRun(
            scenario=self.scenario.name, side=side, result=result, series=tuple(round(rate, 1) for _, rate in series)
        )

    def _read_log(self) -> RecorderLog:
        if self._log is None:
            self._log = RecorderLog(preparation.recorder_folder(self.contestants.lab.folders))
        else:
            self._log.refresh()
        return self._log


def _latency(sorted_ns: Sequence[int]) -> LatencyMs | None:
    if not sorted_ns:
        return None

    def at(share: float) -> float:
        return round(sorted_ns[min(int(share * len(sorted_ns)), len(sorted_ns) - 1)] / 1e6, 2)

    return LatencyMs(p50=at(0.5), p99=at(0.99), worst=at(1.0))
