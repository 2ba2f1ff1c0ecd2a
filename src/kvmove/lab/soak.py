"""The soak: one guest moves there and back under full write load, again and again, and is judged after every hop.

A hop is judged by the digests at its switchover, by the dual-run detector, and by the guest's RAM ledger, which has
seen every page twice before the next hop. The disk is judged sector by sector at the end.
"""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from kvmove.lab import ledger_vm, preparation
from kvmove.lab.commands import LabFailed
from kvmove.lab.demo import judge_disk
from kvmove.lab.guest.dual_run import DualRunDetector, Handover
from kvmove.lab.guest.image import build
from kvmove.lab.guest.options import Mode, serial_trouble
from kvmove.lab.guest.recorder_log import RecorderLog
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.moving import Audience, WatchedMove, watched_move
from kvmove.lab.results import SoakResult
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.model.move import MoveRequest
from kvmove.units import GIB, MIB, format_duration

SOAK_LAB = LabSpec(datastore=DatastoreSpec(size=4 * GIB))
SOAK_VM = LedgerVm(name="soak", memory=256 * MIB, disk=512 * MIB, data=256 * MIB, mode=Mode.MIXED, ram_rate=4000)
SWEEPS = 2
SWEEPS_WITHIN = 120.0
SETTLE = 1.0


@dataclass
class SoakOutcome:
    """The sums over all hops, and in sentences what was wrong."""

    result: SoakResult
    findings: list[str]


class Soak:
    """The running sums of one soak."""

    def __init__(self, lab: Lab, vm: LedgerVm, audience: Audience) -> None:
        self.lab = lab
        self.vm = vm
        self.audience = audience
        self.hops = 0
        self.dual_runs = 0
        self.digests_equal = True
        self.findings: list[str] = []
        self._log: RecorderLog | None = None
        self._guest_faults = 0

    async def hop(self, host: str) -> None:
        """Move the guest to `host` and judge the hop.

        :raise KvmoveError: the move did not succeed.
        """
        request = MoveRequest(vm=self.vm.name, host=host, verify=True)
        moved = await watched_move(self.lab, self.vm, request, self.audience, settle=SETTLE)
        self.hops += 1
        await self._judge(moved)
        downtime = moved.task.report.downtime_ms if moved.task.report else 0.0
        self.audience.say(
            f"hop {self.hops} to {host}: {format_duration(moved.seconds)}, downtime {downtime:.0f} ms, "
            f"digests {'equal' if moved.digests_equal else 'DIFFER'}"
        )
        await self._wait_for_sweeps()

    async def log(self) -> RecorderLog:
        """The recorder's log, read up to now."""
        if self._log is None:
            self._log = await asyncio.to_thread(RecorderLog, preparation.recorder_folder(self.lab.folders))
        await asyncio.to_thread(self._log.refresh)
        return self._log

    def trouble(self) -> list[str]:
        """What the guest's console says of faults, on all hosts."""
        return [line for host in self.lab.hosts for line in _trouble(self.lab.folders.host(host.name))]

    async def _judge(self, moved: WatchedMove) -> None:
        violations = DualRunDetector(await self.log(), moved.samples).violations(self.vm.number, Handover())
        fresh = [v for v in violations if v.signal == "cpu" or len(violations) > self._guest_faults]
        self._guest_faults = len([v for v in violations if v.signal != "cpu"])
        self.dual_runs += bool(fresh)
        self.digests_equal &= moved.digests_equal
        self.findings += [f"hop {self.hops}: {violation.detail}" for violation in fresh]
        if not moved.digests_equal:
            self.findings.append(f"hop {self.hops}: the disks were not found equal at the switchover")

    async def _wait_for_sweeps(self) -> None:
        """Wait until the guest has checked every page of its RAM ledger since the move.

        :raise LabFailed: it does not get there; the guest hangs.
        """
        deadline = time.monotonic() + SWEEPS_WITHIN
        wanted = await self._sweeps() + SWEEPS
        while await self._sweeps() < wanted:
            if time.monotonic() > deadline:
                said = "; ".join(self.trouble()[:3]) or "its console says nothing"
                raise LabFailed(f"the guest does not check its memory any more after hop {self.hops}: {said}")
            await asyncio.sleep(0.2)

    async def _sweeps(self) -> int:
        health = (await self.log()).health(self.vm.number)
        return health.ram_sweeps if health else 0


async def run_soak(spec: LabSpec, vm: LedgerVm, guest_folder: Path, hops: int, audience: Audience) -> SoakOutcome:
    """Move `vm` `hops` times between the first two hosts of `spec`, judge, and leave nothing behind.

    :raise KvmoveError: the lab could not be built, or a move did not succeed.
    """
    image = await asyncio.to_thread(build, guest_folder)
    async with Lab.passing("soak", spec) as lab:
        source, destination = spec.hosts[:2]
        await ledger_vm.define(lab, vm, image, source)
        await ledger_vm.start(lab, vm)
        soak = Soak(lab, vm, audience)
        for number in range(hops):
            await soak.hop(source if number % 2 else destination)
        health = (await soak.log()).health(vm.number)
        verdict = await judge_disk(lab, vm, image, source if hops % 2 == 0 else destination)
        trouble = await asyncio.to_thread(soak.trouble)
        if not verdict.ok or verdict.checked == 0:
            soak.findings.append(f"the disk: {verdict}")
        return SoakOutcome(
            SoakResult(
                hops=soak.hops, lost=verdict.lost, corrupt_pages=health.corrupt_pages if health else -1,
                dual_runs=soak.dual_runs, digests_equal=soak.digests_equal, guest_oops=len(trouble),
            ),
            soak.findings + trouble,
        )  # fmt: skip


def _trouble(folder: Path) -> list[str]:
    found = []
    for log in folder.rglob("serial.log"):
        found += [f"console: {line}" for line in serial_trouble(log.read_text(errors="replace"))]
    return found
