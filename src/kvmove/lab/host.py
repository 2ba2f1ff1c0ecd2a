"""One host of a lab as its supervisor sees it: a process in namespaces of its own, and the talk with its init.

Invariant: the host lives exactly as long as its `unshare` process, which dies with the supervisor (`setpriv
--pdeathsig`, `unshare --kill-child`); the kernel then ends everything inside. What services do is the init's work.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass
from pathlib import Path

from kvmove.lab import processes
from kvmove.lab.commands import LabFailed
from kvmove.lab.leftovers import MARK

UP_WITHIN = 20.0
STOP_WITHIN = 8.0
"""Seconds; longer than the init's own grace for its services."""


@dataclass
class ServiceState:
    """What is known of a service: its number inside the host (None: not running), its starts, its last return code."""

    pid: int | None = None
    starts: int = 0
    returncode: int | None = None


def unshare_command(config: Path) -> list[str]:
    """The command whose process is the host described by the file `config`."""
    apart = ["--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child", "--propagation", "private"]
    init = [sys.executable, "-m", "kvmove.lab.host_init", str(config)]
    return ["setpriv", "--pdeathsig", "KILL", "unshare", *apart, "--", *init]


class HostProcess:
    """The host called `name` of a lab, described by `config`; its init's words go to `log`."""

    def __init__(self, lab: str, name: str, config: Path, log: Path) -> None:
        self.lab = lab
        self.name = name
        self.config = config
        self.log = log
        self.services: dict[str, ServiceState] = {}
        self.init = 0
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._up: asyncio.Future[None] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the host and wait until its init is up; services wait for `begin`.

        :raise LabFailed: the host did not come up; it is gone again.
        """
        environment = {**os.environ, MARK: self.lab}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *unshare_command(self.config), stdin=PIPE, stdout=PIPE, stderr=log, env=environment,
                start_new_session=True,
            )  # fmt: skip
        self._up = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(self._process, self._up))
        try:
            async with asyncio.timeout(UP_WITHIN):
                await self._up
            await asyncio.to_thread(self._identify, self._process.pid)
        except (TimeoutError, LabFailed) as error:
            await self.kill()
            raise LabFailed(f"host {self.name} did not come up: {error}", hint=f"see {self.log}") from error

    def begin(self) -> None:
        """Let the init start the services: the NICs are there."""
        self._tell({"do": "start"})

    def hold(self, service: str) -> None:
        """End a service and keep it down."""
        self._tell({"do": "hold", "service": service})

    def release(self, service: str) -> None:
        """Start a held service again."""
        self._tell({"do": "release", "service": service})

    async def stop(self) -> None:
        """End the host in order: its services get SIGTERM first; then everything in it ends."""
        if self.running:
            self._tell({"do": "stop"})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_WITHIN):
                    await self._ended()
        await self.kill()

    async def kill(self) -> None:
        """Cut the host's power: every process in it dies at once."""
        if self._process is None:
            return
        for pid in (self.init, self._process.pid):
            if pid and self.running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await self._ended()
        self._process = None
        self.init = 0
        for state in self.services.values():
            state.pid = None

    async def _ended(self) -> None:
        if self._process is not None:
            await self._process.wait()
        if self._reader is not None:
            await self._reader

    def _tell(self, command: dict[str, str]) -> None:
        if self._process is None or self._process.stdin is None or not self.running:
            raise LabFailed(f"host {self.name} is not running")
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def _read(self, process: Process, up: asyncio.Future[None]) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            event = json.loads(line)
            kind = event["event"]
            if kind == "up":
                up.set_result(None)
            elif kind == "failed" and not up.done():
                up.set_exception(LabFailed(event["reason"]))
            elif kind in {"started", "ended"}:
                self._note(kind, event["service"], event)
        if not up.done():
            up.set_exception(LabFailed("its init ended at once"))

    def _note(self, kind: str, service: str, event: dict[str, int]) -> None:
        state = self.services.setdefault(service, ServiceState())
        if kind == "started":
            state.pid, state.starts = event["pid"], state.starts + 1
        else:
            state.pid, state.returncode = None, event["returncode"]

    def _identify(self, unshare: int) -> None:
        inits = processes.children(unshare)
        if not inits:
            raise LabFailed("its init ended at once")
        self.init = inits[0]
