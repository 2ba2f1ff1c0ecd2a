"""One host of a lab for programs: its processes, its NICs, its files, and the faults one can do to it.

All process numbers are the machine's. Commands of the machine run in a thread, so the event loop goes on.
"""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

from kvmove.errors import NotFound
from kvmove.lab import network, preparation, processes
from kvmove.lab.commands import in_host, run
from kvmove.lab.folders import LabFolders
from kvmove.lab.network import NicCounters
from kvmove.lab.spec import LOCAL, LabSpec

AGENT = ("-m", "kvmove", "agent")


class LabHost:
    """The host called `name`. `init` is its PID 1 (0 while powered off), `index` its number (None: the world)."""

    def __init__(self, name: str, index: int | None, folders: LabFolders, spec: LabSpec) -> None:
        self.name = name
        self.index = index
        self.init = 0
        self.world = 0
        self.services: dict[str, dict[str, Any]] = {}
        self._folders = folders
        self._spec = spec

    def pids(self) -> list[int]:
        """Every process of the host, its init first."""
        identity = processes.namespace(self.init, "pid") if self.init else None
        return sorted(processes.in_namespace("pid", identity)) if identity else []

    def agent_pid(self) -> int | None:
        """The agent's process, None while it is down."""
        return next((pid for pid in self.pids() if tuple(processes.argv(pid)[1:4]) == AGENT), None)

    def qemu_pids(self) -> dict[UUID, int]:
        """The host's QEMUs by the VM's UUID."""
        found = {}
        for pid in self.pids():
            words = processes.argv(pid)
            if words and Path(words[0]).name.startswith("qemu-system-") and "-uuid" in words:
                found[UUID(words[words.index("-uuid") + 1])] = pid
        return found

    def kill_agent(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal the agent and return its number; the host's init starts a new one after 200 ms.

        :raise NotFound: no agent runs.
        """
        pid = self.agent_pid()
        if pid is None:
            raise NotFound(f"no agent runs on {self.name}")
        os.kill(pid, number)
        return pid

    def kill_qemu(self, vm: UUID, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal the VM's QEMU on this host and return its number.

        :raise NotFound: the host runs no QEMU for it.
        """
        pid = self.qemu_pids().get(vm)
        if pid is None:
            raise NotFound(f"no QEMU of VM {vm} runs on {self.name}")
        os.kill(pid, number)
        return pid

    def arm(self, point: str, action: str) -> None:
        """At that failpoint the host's agent shall `hold`, `kill` itself or `fail`; each time, until `disarm`."""
        (self._folders.failpoints(self.name) / point).write_text(action)

    def disarm(self, point: str) -> None:
        """The agent goes on at that failpoint."""
        for name in (point, f"{point}.reached"):
            (self._folders.failpoints(self.name) / name).unlink(missing_ok=True)

    def is_held(self, point: str) -> bool:
        """Whether the agent holds at that failpoint, or died there."""
        return (self._folders.failpoints(self.name) / f"{point}.reached").exists()

    async def exec(self, argv: list[str], timeout: float = 60.0) -> str:
        """Run a command inside the host and return what it printed.

        :raise LabFailed: it failed.
        """
        return await asyncio.to_thread(run, in_host(self.init, argv), "", timeout)

    async def cut_streams(self) -> int:
        """Break every TCP connection of the data port at once; returns how many ends were cut."""
        return await asyncio.to_thread(network.cut_connections, self.init, preparation.DATA_PORT)

    async def nic_down(self, nic: str) -> None:
        """Take a NIC down; it keeps its address."""
        await asyncio.to_thread(network.set_link, self.init, nic, up=False)

    async def nic_up(self, nic: str) -> None:
        """Take a NIC up again."""
        await asyncio.to_thread(network.set_link, self.init, nic, up=True)

    async def set_rate(self, nic: str, rate: int) -> None:
        """Change a migration NIC's rate in both directions, bytes/s; 0 is unshaped."""
        if self.index is None:
            raise NotFound("the world has no migration NICs")
        await asyncio.to_thread(network.reshape, self.world, self.init, self.index, nic, rate)

    async def nic_counters(self) -> dict[str, NicCounters]:
        """What each network device of the host has carried since the host started."""
        return await asyncio.to_thread(network.counters, self.init)

    def outside(self, path: Path) -> Path:
        """The path by which a process outside the host reaches the host's `path`."""
        return processes.outside(self.init, path)

    @property
    def datastore(self) -> Path:
        """The host's own datastore, as seen from outside."""
        return self.datastore_called(LOCAL)

    def datastore_called(self, name: str) -> Path:
        """A datastore of the host, as seen from outside."""
        return self.outside(self._folders.datastore(name))

    @property
    def log_files(self) -> list[Path]:
        """The logs of the host's init and services."""
        return sorted(self._folders.host(self.name).glob("*.log"))
