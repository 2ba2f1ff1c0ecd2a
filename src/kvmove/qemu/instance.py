"""A VM's QEMU as one thing: the process and its two monitors.

Invariant: whoever holds an `Instance` can always speak to QEMU or end it: `monitor` for commands, `oob` for the one
command that works while QEMU's main loop hangs, the process for signals. Losing the monitors (agent restart) never
touches the guest.

Not done here: which QEMUs should exist (`agent.vms`), and any migration.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self
from uuid import UUID

from kvmove.errors import Busy, KvmoveError, MoveFailed, Unreachable
from kvmove.model.vm import VmDefinition
from kvmove.qemu.command_line import VmPaths, belongs_to
from kvmove.qemu.disk_nodes import CurrentDisk, current_disks
from kvmove.qemu.monitor import Monitor
from kvmove.qemu.process import QemuProcess

START_SECONDS = 20.0
QUIT_SECONDS = 5.0
_RETRY_SECONDS = 0.02
_LOG_LINES = 6


@dataclass
class Instance:
    """A QEMU that runs. `disk_nodes` gives the root node of every disk by the disk's name: the node to mirror. It is
    what QEMU said when we connected, and says anew after each step of a storage move (`look_at_disks`). `agent_socket`
    leads to an agent in the guest; None: the VM is defined without one."""

    process: QemuProcess
    monitor: Monitor
    oob: Monitor
    disk_nodes: Mapping[str, str]
    agent_socket: Path | None = None

    @classmethod
    async def start(cls, definition: VmDefinition, arguments: list[str], paths: VmPaths) -> Self:
        """Start QEMU (its guest stands still) and connect. `arguments` come from `command_line`.

        :raise Busy: a QEMU of this VM runs here already; it is left alone.
        :raise MoveFailed: QEMU ended at once; the message holds its last words. Nothing is left running.
        :raise Unreachable: QEMU runs and does not answer; it was ended.
        """
        if (other := find_process(definition.uuid, paths)) is not None:
            other.close()
            raise Busy(f"VM {definition.name} has a QEMU already (pid {other.pid})", hint="Stop or adopt that one.")
        paths.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        paths.logs.mkdir(parents=True, exist_ok=True)
        for leftover in (paths.monitor, paths.oob_monitor, paths.pidfile):
            leftover.unlink(missing_ok=True)
        process = QemuProcess.start(arguments, paths.qemu_log)
        try:
            return await cls._connect(definition, process, paths)
        except BaseException:
            await process.end()
            process.close()
            raise

    @classmethod
    async def adopt(cls, definition: VmDefinition, paths: VmPaths) -> Self | None:
        """Find the VM's QEMU again after a restart of ours and connect; None when it is gone. The guest sees nothing.

        :raise Unreachable: it runs and does not answer, or another program holds its monitors. It runs on.
        """
        process = find_process(definition.uuid, paths)
        if process is None:
            return None
        try:
            return await cls._connect(definition, process, paths)
        except BaseException:
            process.close()
            raise

    @classmethod
    async def _connect(cls, definition: VmDefinition, process: QemuProcess, paths: VmPaths) -> Self:
        monitor = await _connect_when_ready(process, paths, paths.monitor)
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(monitor.close)
            oob = await _connect_when_ready(process, paths, paths.oob_monitor, oob=True)
            undo.push_async_callback(oob.close)
            instance = cls(process, monitor, oob, {}, paths.agent if definition.guest_agent else None)
            await instance.look_at_disks(definition)
            undo.pop_all()
        return instance

    async def look_at_disks(self, definition: VmDefinition) -> dict[str, CurrentDisk]:
        """Ask QEMU which node and file each disk is on, and renew `disk_nodes`. Raises as `current_disks` does."""
        disks = await current_disks(self.monitor, definition)
        self.disk_nodes = {name: disk.node for name, disk in disks.items()}
        return disks

    async def disconnect(self) -> None:
        """Let go of monitors and process. QEMU and its guest run on."""
        await self.monitor.close()
        await self.oob.close()
        self.process.close()

    async def end(self) -> None:
        """End QEMU: by `quit`, else by signals; then let go. Its guest is gone, with what it had not synced.

        :raise Unreachable: it does not end even by SIGKILL; the handle is kept.
        """
        with contextlib.suppress(KvmoveError, TimeoutError):
            async with asyncio.timeout(QUIT_SECONDS):
                with contextlib.suppress(KvmoveError):
                    await self.monitor.execute("quit", timeout=QUIT_SECONDS)
                await self.process.wait_ended()
        if self.process.is_alive():
            await self.process.end()
        await self.disconnect()


def find_process(vm: UUID, paths: VmPaths) -> QemuProcess | None:
    """The VM's QEMU process, if one lives; the caller closes the handle."""
    return QemuProcess.adopt(paths.pidfile, partial(belongs_to, vm=vm, paths=paths))


async def end_found(vm: UUID, paths: VmPaths) -> None:
    """End the VM's QEMU by signals, if one lives: the way when nobody is connected to it, or it does not answer.

    :raise Unreachable: it does not end even by SIGKILL.
    """
    process = find_process(vm, paths)
    if process is not None:
        try:
            await process.end()
        finally:
            process.close()


async def _connect_when_ready(process: QemuProcess, paths: VmPaths, socket: Path, *, oob: bool = False) -> Monitor:
    """Connect as soon as QEMU listens; QEMU makes its sockets some 20 to 100 ms after its start."""
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while process.is_alive():
        with contextlib.suppress(Unreachable):
            return await Monitor.connect(socket, oob=oob)
        if asyncio.get_running_loop().time() > deadline:
            raise Unreachable(f"QEMU (pid {process.pid}) does not answer at {socket}", hint=f"See {paths.qemu_log}.")
        await asyncio.sleep(_RETRY_SECONDS)
    raise MoveFailed(f"QEMU ended at its start: {last_words(paths.qemu_log)}", hint=f"See {paths.qemu_log}.")


def last_words(log: Path) -> str:
    """The last lines that QEMU wrote since its last start, in one line; empty when there are none."""
    with contextlib.suppress(OSError):
        text = log.read_text(errors="replace")
        lines = text[text.rfind("\n$ ") + 1 :].splitlines()[1:]
        return " / ".join(line.strip() for line in lines[-_LOG_LINES:])
    return ""
