"""A guest in a plain QEMU of each host, moved as one does it by hand: the peer without anything around it.

The same machine as kvmove's, from the same definition; see `qemu.by_hand` for the move. Both QEMUs end with `close`,
or with their hosts.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

from kvmove.errors import KvmoveError, Unreachable
from kvmove.lab import addresses, processes
from kvmove.lab.commands import LabFailed
from kvmove.lab.folders import LabFolders
from kvmove.lab.guest.image import GuestImage
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import DISK, LedgerVm
from kvmove.qemu import by_hand, run_control
from kvmove.qemu.command_line import VmPaths, VmResources, command_line
from kvmove.qemu.disk_nodes import node_names
from kvmove.qemu.monitor import Monitor

PORTS = (10809, 10810)
TAP = "byhand0"
UP_WITHIN = 10.0
[NODE, _] = node_names(0)


class PlainQemu:
    """One guest in one QEMU on one host; made by `started`."""

    def __init__(self, host: LabHost, folders: LabFolders, vm: LedgerVm, disk: Path) -> None:
        self.host = host
        self.disk = disk
        self._vm = vm
        self._paths = VmPaths(folders.host(host.name) / "byhand", folders.host(host.name))
        self._monitor: Monitor | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def started(
        cls, host: LabHost, folders: LabFolders, vm: LedgerVm, image: GuestImage, *, incoming: bool
    ) -> AsyncIterator["PlainQemu"]:
        """A QEMU on `host` whose disk, `disk`, is there already; its guest stands still.

        :raise LabFailed: it did not start.
        """
        plain = cls(host, folders, vm, folders.datastore() / f"{vm.name}.raw")
        try:
            await plain._start(image, incoming=incoming)
            yield plain
        finally:
            await plain._end()

    @property
    def monitor(self) -> Monitor:
        """The QEMU's monitor; it is there once the QEMU is."""
        assert self._monitor is not None
        return self._monitor

    async def run(self) -> None:
        """Let the guest run."""
        await run_control.cont(self.monitor)

    async def move_to(self, there: "PlainQemu") -> None:
        """Move the guest; both QEMUs stay.

        :raise KvmoveError: QEMU gave up.
        """
        if there.host.index is None:
            raise ValueError("the world runs no guests")
        address = addresses.migration(0, there.host.index).address
        await by_hand.await_guest(there.monitor, NODE, address, PORTS)
        await by_hand.move(self.monitor, NODE, address, PORTS)
        await by_hand.take_over(there.monitor)
        await there.run()

    async def _start(self, image: GuestImage, *, incoming: bool) -> None:
        for line in (f"tuntap add dev {TAP} mode tap", f"link set {TAP} master {addresses.GUEST_BRIDGE} up"):
            await self.host.exec(["ip", *line.split()])
        await asyncio.to_thread(self._paths.folder.mkdir, parents=True, exist_ok=True)
        definition = self._vm.definition(image)
        resources = VmResources({DISK: self.disk}, {definition.nics[0].name: TAP})
        words = command_line(definition, "tcg", self._paths, resources, incoming=incoming)
        # Its own -daemonize is what its sandbox does not allow.
        await self.host.exec(
            ["sh", "-c", 'setsid --fork "$@" </dev/null >"$0" 2>&1', str(self._paths.qemu_log), *words]
        )
        await self._connect()

    async def _connect(self) -> None:
        deadline = time.monotonic() + UP_WITHIN
        while self._monitor is None:
            try:
                self._monitor = await Monitor.connect(self._paths.monitor)
            except Unreachable as error:
                if time.monotonic() > deadline:
                    raise LabFailed(f"a plain QEMU did not start; see {self._paths.qemu_log}") from error
                await asyncio.sleep(0.1)

    async def _end(self) -> None:
        """Its process dies, its tap goes; nothing of the guest is to be kept."""
        pid = (await asyncio.to_thread(self.host.qemu_pids)).get(self._vm.uuid)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(_wait_gone, pid)
        if self._monitor is not None:
            await self._monitor.close()
        with contextlib.suppress(KvmoveError):
            await self.host.exec(["ip", "link", "delete", TAP])


def _wait_gone(pid: int) -> None:
    """A killed process goes: the kernel sees to it."""
    while processes.alive(pid):
        time.sleep(0.02)
