"""The demo: two hosts on this machine, a guest that writes all the time, one move, and what it was like.

Everything that it prints or returns is measured in this run.
"""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kvmove.lab import ledger_vm, observation, preparation
from kvmove.lab.guest.dual_run import DualRunDetector, Handover, Violation
from kvmove.lab.guest.image import GuestImage, build
from kvmove.lab.guest.recorder_log import RecorderLog
from kvmove.lab.guest.verifier import Expect, Verdict, verify
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.moving import Audience, WatchedMove, watched_move
from kvmove.lab.results import DemoResult, Downtime, LedgerVerdict, LongestGaps, WriteRates
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.model.move import MoveRequest
from kvmove.model.task import Task
from kvmove.units import GIB, MIB, format_size

DEMO_LAB = LabSpec(datastore=DatastoreSpec(size=4 * GIB))
DEMO_VM = LedgerVm(name="demo", data=768 * MIB)


@dataclass(frozen=True)
class DemoOutcome:
    """The figures, the task they belong to, and what the judges found wrong (nothing, if all is well)."""

    result: DemoResult
    task: Task
    findings: tuple[str, ...]

    @property
    def good(self) -> bool:
        return not self.findings


async def run_demo(spec: LabSpec, vm: LedgerVm, guest_folder: Path, audience: Audience) -> DemoOutcome:
    """Build the lab of `spec`, move `vm` from its first host to its second, judge, and leave nothing behind.

    :raise KvmoveError: the lab could not be built, or the move did not succeed.
    """
    audience.say("building the guest")
    image = await asyncio.to_thread(build, guest_folder)
    audience.say(f"building a lab of {len(spec.hosts)} hosts, {_nics(spec)} each")
    async with Lab.passing("demo", spec) as lab:
        source, destination = spec.hosts[:2]
        sizes = f"{format_size(vm.memory)} RAM, {format_size(vm.disk)} disk, {format_size(vm.data)} of it data"
        audience.say(f"starting {vm.name} on {source}: {sizes}")
        await ledger_vm.define(lab, vm, image, source)
        await ledger_vm.start(lab, vm)
        request = MoveRequest(vm=vm.name, host=destination, verify=True)
        moved = await watched_move(lab, vm, request, audience)
        audience.say("stopping the guest and judging its disk and its ledger")
        verdict = await judge_disk(lab, vm, image, destination)
        log = await asyncio.to_thread(RecorderLog, preparation.recorder_folder(lab.folders))
        violations = DualRunDetector(log, moved.samples).violations(vm.number, Handover())
        return DemoOutcome(
            _result(moved, verdict, violations, log, vm), moved.task, tuple(findings(moved, verdict, violations))
        )


async def judge_disk(lab: Lab, vm: LedgerVm, image: GuestImage, host: str, disk: Path | None = None) -> Verdict:
    """End the guest on `host` as if the power went, and compare its disk with the ledger; `disk` is where that lies
    after it went to another datastore.

    :raise CheckFailed: disk or log cannot be read.
    """
    await lab.manager.kill_vm(str(vm.uuid))
    folder = preparation.recorder_folder(lab.folders)
    return await asyncio.to_thread(_verify, disk or vm.disk_file(lab.host(host)), vm, image, folder)


def _verify(disk: Path, vm: LedgerVm, image: GuestImage, recorder: Path) -> Verdict:
    expect = Expect(vm=vm.number, prefill=vm.prefill)
    if not disk.is_block_device():
        return verify(disk, recorder, image.verify_tool, expect)
    with tempfile.TemporaryDirectory() as folder:  # the device may be larger than the disk
        copy = Path(folder) / disk.name
        with disk.open("rb") as device, copy.open("wb") as file:
            for offset in range(0, vm.disk, MIB):
                file.write(device.read(min(MIB, vm.disk - offset)))
        return verify(copy, recorder, image.verify_tool, expect)


def findings(moved: WatchedMove, verdict: Verdict, violations: list[Violation]) -> list[str]:
    """What is wrong, in sentences; empty is good."""
    found = [violation.detail for violation in violations]
    if not moved.digests_equal:
        found.append("the disks were not found equal at the switchover")
    if verdict.checked == 0:
        found.append("the verifier had nothing to check")
    if not verdict.ok:
        found.append(f"{verdict.lost} writes lost, {verdict.corrupt} sectors corrupt, {verdict.doubtful} doubtful")
    return found


def _result(
    moved: WatchedMove, verdict: Verdict, violations: list[Violation], log: RecorderLog, vm: LedgerVm
) -> DemoResult:
    seen = observation.guest_figures(log, vm.number, moved.at)
    qemu = moved.task.report.downtime_ms if moved.task.report else 0.0
    return DemoResult(
        seconds=moved.seconds,
        downtime_ms=Downtime(qemu=qemu, guest=seen.guest_downtime_ms, network=seen.network_downtime_ms),
        writes_per_second=WriteRates(
            before=round(seen.writes_before), copying=round(seen.writes_copying), after=round(seen.writes_after)
        ),
        longest_gap_ms=LongestGaps(copying=seen.gap_copying_ms, switchover=seen.gap_switchover_ms),
        bytes=dict(moved.sent),
        ledger=LedgerVerdict(acknowledged=verdict.acknowledged, lost=verdict.lost),
        digests_equal=moved.digests_equal,
        dual_run=bool(violations),
    )


def _nics(spec: LabSpec) -> str:
    rates = ", ".join(f"{rate * 8 / 1e9:g} Gbit/s" if rate else "unshaped" for rate in spec.nics)
    return f"{len(spec.nics)} migration NICs ({rates})"
