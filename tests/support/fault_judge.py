"""What must be true after a fault, whatever it was: looked at from outside, believing no agent.

One running copy on the host that the registry names; a task that says so; no acknowledged write lost (the disk is
judged as a reflink of this instant against what was acknowledged before it); no corrupt page; nothing left over.
"""

import asyncio
import re
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from kvmove.agent.taps import tap_name
from kvmove.errors import from_problem
from kvmove.lab.folders import WORLD
from kvmove.lab.guest.datagrams import LOG_NAME
from kvmove.lab.guest.verifier import Expect, Verdict, verify
from kvmove.lab.lab_host import LabHost
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import VmState
from tests.support.fault_lab import VM, FaultLab, Move

SETTLE_SECONDS = 40.0
MOST_THREADS = 24
MOST_FILES = 60
"""An agent without a move under way has fewer; a move that leaks what it opened passes these after a few cases."""


@dataclass(frozen=True)
class Expected:
    """`stays`: whether the VM ends at the source. `says`: a pattern for the problem's sentence."""

    stays: bool
    states: tuple[TaskState, ...]
    says: str = ""


STAYS = Expected(stays=True, states=(TaskState.FAILED,))
MOVES = Expected(stays=False, states=(TaskState.SUCCEEDED,))


def stays(says: str, state: TaskState = TaskState.FAILED) -> Expected:
    """The VM stays at the source, and the task says why."""
    return Expected(stays=True, states=(state,), says=says)


class Judge:
    """Judges one move that is over."""

    def __init__(self, faults: FaultLab, move: Move, expected: Expected) -> None:
        self.faults = faults
        self.move = move
        self.here, self.there = (move.source, move.destination) if expected.stays else (move.destination, move.source)
        self.expected = expected

    async def judge(self) -> None:
        """All of it; the first thing that is wrong fails the test."""
        await self._task()
        await _settled(self._place, "the VM is not where it should be")
        await _settled(self._leftovers, "something is left over")
        self._vcpus()
        await self._guest()
        await self._disk()

    async def lost(self) -> None:
        """The VM's own QEMU ended: the task says so, nothing is left, and it starts again where it belongs."""
        await self._task(f"belongs to {self.here.name} and can be started there")
        await _settled(self._leftovers, "something is left over")
        await self.faults.see_that_it_runs()
        self.move.boots += 1
        await _settled(self._place, "the VM is not where it should be")
        await self._guest()
        await self._disk()

    # The task.

    async def _task(self, vm_state: str = "") -> None:
        vm_state = vm_state or f"running on {self.here.name}"
        task = await self.faults.show_task(self.move)
        said = f"{task.state}: {task.problem} / {task.vm_state}"
        assert task.state in self.expected.states, said
        assert vm_state in task.vm_state, said
        assert task.ended, said
        assert self.move.code == _exit_code(task), (self.move.code, said, self.move.told)
        if task.state is TaskState.SUCCEEDED:
            assert task.problem is None, said
            return
        assert task.problem, said
        assert re.search(self.expected.says, str(task.problem["detail"]), re.IGNORECASE), said
        assert task.problem["step"], said
        assert vm_state in str(task.problem["vm_state"]), said

    # Where the VM is.

    async def _place(self) -> str:
        places = [host.name for host in self.faults.lab.hosts if VM.uuid in host.qemu_pids()]
        if places != [self.here.name]:
            return f"QEMU on {places}, expected on {self.here.name}"
        record = self.registry()
        if record != (self.here.name, "owned"):
            return f"the registry says {record}"
        if not await self.faults.answers():
            return "an agent does not answer"
        vms = [vm for vm in await self.faults.lab.manager.vms() if vm.definition.uuid == VM.uuid]
        seen = [(vm.host, vm.state, vm.move_id) for vm in vms]
        return "" if seen == [(self.here.name, VmState.RUNNING, None)] else f"the manager sees {seen}"

    def registry(self) -> tuple[str, str]:
        """Owner and state, read from the file."""
        file = self.faults.lab.folders.host(WORLD) / "manager" / "registry.db"
        connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        try:
            row = connection.execute("SELECT owner, state FROM ownership WHERE vm = ?", (str(VM.uuid),)).fetchone()
        finally:
            connection.close()
        return row[0], row[1]

    # What is left.

    async def _leftovers(self) -> str:
        found = []
        for host in self.faults.lab.hosts:
            run = self.faults.lab.folders.host_run(host.name)
            found += [f"{host.name}: {path}" for path in (run / "moves").iterdir()]
            found += [f"{host.name}: {path}" for path in host.datastore.glob("*/*.frozen")]
            found += [f"{host.name}: {path}" for path in host.datastore.glob("*/.incoming-*")]
            found += [f"{host.name}: {path}" for path in host.datastore.glob(".kvmove-new-*")]
            found += [f"{host.name}: {path}" for path in host.datastore.glob(".kvmove-quarantine/*.gone-*")]
            found += await asyncio.to_thread(_grown, host)
        found += [f"{self.there.name}: {path}" for path in self.there.datastore.glob(str(VM.uuid))]
        vms = self.faults.lab.folders.host_run(self.there.name) / "vms"
        found += [f"{self.there.name}: {path}" for path in vms.glob("*")]
        devices = await self.there.nic_counters()
        found += [f"{self.there.name}: {tap_name(VM.uuid, 0)}"] if tap_name(VM.uuid, 0) in devices else []
        return "; ".join(found)

    # The guest.

    def _vcpus(self) -> None:
        if self.expected.stays:
            assert not self.move.vcpus.destination_ran(), "the destination's vCPUs ran"
        else:
            assert self.move.vcpus.both_ran_ns() == 0, "both QEMUs' vCPUs ran"

    async def _guest(self) -> None:
        """It goes on writing, as the one that was started once. (Its memory is seen whole at the end of all cases.)"""
        before = await asyncio.to_thread(self.faults.health)

        async def goes_on() -> str:
            now = await asyncio.to_thread(self.faults.health)
            assert now.corrupt_pages == 0, now
            assert now.io_errors == 0, now
            return "" if now.writes > before.writes else f"{now.writes} writes"

        await _settled(goes_on, "the guest stands still")
        faults = self.faults.log.heartbeat_faults(VM.number)
        assert faults.total == 0, faults
        assert self.faults.boots() == self.move.boots, "the guest was started anew"

    # The disk.

    async def _disk(self) -> None:
        verdict = await asyncio.to_thread(self._verdict)
        assert verdict.checked > 0
        assert verdict.ok, verdict

    def _verdict(self) -> Verdict:
        """What was acknowledged up to now must be on the disk a moment later."""
        disk = VM.disk_file(self.here)
        still = disk.with_name("still.raw")
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(self.faults.recorder / LOG_NAME, Path(folder) / LOG_NAME)
            try:
                subprocess.run(["cp", "--reflink=always", str(disk), str(still)], check=True)
                expect = Expect(vm=VM.number, prefill=VM.prefill)
                return verify(still, Path(folder), self.faults.image.verify_tool, expect)
            finally:
                still.unlink(missing_ok=True)


async def judge(faults: FaultLab, move: Move, expected: Expected) -> None:
    """See `Judge`."""
    await Judge(faults, move, expected).judge()


def _exit_code(task: Task) -> int:
    return 0 if task.state is TaskState.SUCCEEDED else from_problem(task.problem or {}).exit_code


def _grown(host: LabHost) -> list[str]:
    pid = host.agent_pid()
    if pid is None:
        return [f"{host.name}: no agent"]
    try:
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except FileNotFoundError:
        return [f"{host.name}: its agent has just ended"]
    found = [f"{host.name}: {threads} threads"] if threads > MOST_THREADS else []
    return found + ([f"{host.name}: {files} files"] if files > MOST_FILES else [])


async def _settled(what: Callable[[], Awaitable[str]], said: str) -> None:
    """Wait until `what` has nothing to say any more; only a hang is a failure."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while found := await what():
        assert time.monotonic() < deadline, f"{said}: {found}"
        await asyncio.sleep(0.1)
