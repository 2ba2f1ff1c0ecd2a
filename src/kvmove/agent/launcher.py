"""Bringing a VM's QEMU up on this host and clearing it away: files, taps, accelerator, process.

    <run>/vms/<uuid>/      sockets and pidfile of its QEMU; gone when the QEMU was cleared away
    <state>/logs/<uuid>/   qemu.log and serial.log; kept until the VM is deleted here

Invariant: `launch` leaves all of it or nothing, and what it started runs no guest. It asks nobody whether the VM may
run; that is for `vms` to know.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from kvmove.agent.swap_files import SwapFiles, take_space
from kvmove.agent.taps import create_taps, delete_taps
from kvmove.agent.vm_disks import VmDisks
from kvmove.disk.datastore import Datastore
from kvmove.errors import Busy, CheckFailed, KvmoveError
from kvmove.model.vm import VmDefinition
from kvmove.qemu.accelerator import Accelerator
from kvmove.qemu.command_line import VmPaths, VmResources, command_line
from kvmove.qemu.dirty_marks import clear_dirty_marks
from kvmove.qemu.instance import Instance, end_found, find_process, last_words

log = logging.getLogger(__name__)


class Launcher:
    """The host as QEMU sees it. `datastores` by name; `accelerator` is the best one that the host has."""

    def __init__(self, run: Path, state: Path, datastores: Mapping[str, Datastore], accelerator: Accelerator) -> None:
        self._run = run / "vms"
        self._logs = state / "logs"
        self.disks = VmDisks(datastores)
        self.swap_files = SwapFiles(datastores)
        self._accelerator: Accelerator = accelerator

    def paths(self, vm: UUID) -> VmPaths:
        return VmPaths(self._run / str(vm), self._logs / str(vm))

    def accelerator_for(self, definition: VmDefinition) -> Accelerator:
        """What the VM runs on here.

        :raise CheckFailed: its definition asks for KVM and the host has none.
        """
        if definition.accelerator == "kvm" and self._accelerator != "kvm":
            raise CheckFailed(
                f"VM {definition.name} is defined to run on KVM, which this host does not have",
                hint="Turn hardware virtualization on in the host's firmware, or set accelerator to auto.",
            )
        return self._accelerator if definition.accelerator == "auto" else definition.accelerator

    async def launch(self, definition: VmDefinition, *, incoming: bool = False) -> Instance:
        """Start QEMU for the VM; its guest stands still. With `incoming` it waits for the VM's memory.

        :raise Busy: a QEMU of the VM lives here already; it is left alone.
        :raise KvmoveError: it cannot be done; nothing of it is left.
        """
        if (pid := self.is_there(definition.uuid)) is not None:
            raise Busy(f"VM {definition.name} has a QEMU here already (pid {pid})", hint="Restart the agent.")
        accelerator = self.accelerator_for(definition)
        disks = await asyncio.to_thread(self.disks.files, definition, incoming=incoming)
        devices = self.disks.devices(definition)
        self._check_boot(definition)
        swap = await asyncio.to_thread(self.swap_files.folder, definition)
        taps = await create_taps(definition)
        paths = self.paths(definition.uuid)
        try:
            resources = VmResources(disks, taps, swap, devices)
            arguments = command_line(definition, accelerator, paths, resources, incoming=incoming)
            instance = await Instance.start(definition, arguments, paths)
        except BaseException:
            await self.sweep(definition.uuid)
            raise
        try:
            if swap is not None:
                await asyncio.to_thread(take_space, instance.process.pid, swap)
            if accelerator == "tcg" and not incoming:
                await clear_dirty_marks(instance.monitor, paths.folder / "nowhere.sock")
        except BaseException:
            await self.clear(definition.uuid, instance)
            raise
        return instance

    async def adopt(self, definition: VmDefinition) -> Instance | None:
        """The VM's QEMU that an earlier agent started, if it lives; its guest sees nothing of it.

        :raise Unreachable: it lives and does not answer.
        """
        return await Instance.adopt(definition, self.paths(definition.uuid))

    def is_there(self, vm: UUID) -> int | None:
        """The pid of the VM's QEMU, whether it answers or not; None when there is none."""
        process = find_process(vm, self.paths(vm))
        if process is None:
            return None
        process.close()
        return process.pid

    def last_words(self, vm: UUID) -> str:
        """What its QEMU wrote last; empty when nothing."""
        return last_words(self.paths(vm).qemu_log)

    async def clear(self, vm: UUID, instance: Instance | None) -> None:
        """End the VM's QEMU, if there is one, and take taps and runtime folder away.

        :raise Unreachable: QEMU does not end even by SIGKILL; all is left as it is.
        """
        if instance is not None:
            await instance.end()
        else:
            await end_found(vm, self.paths(vm))
        await self.sweep(vm)

    def remove_logs(self, vm: UUID) -> None:
        """Once the VM is deleted."""
        shutil.rmtree(self.paths(vm).logs, ignore_errors=True)

    async def sweep(self, vm: UUID) -> None:
        """Take away what a QEMU that has ended left; one that lives is left alone, with all that is its."""
        if self.is_there(vm) is not None:
            return
        try:
            await delete_taps(vm)
        except KvmoveError as error:
            log.warning("a tap of VM %s is left: %s", vm, error.detail)
        await asyncio.to_thread(shutil.rmtree, self.paths(vm).folder, ignore_errors=True)

    def _check_boot(self, definition: VmDefinition) -> None:
        """Also for a destination: the guest needs its kernel again at its next reset."""
        boot = definition.boot
        for file in (boot.kernel, boot.initrd) if boot else ():
            if file is not None and not Path(file).is_file():
                raise CheckFailed(f"VM {definition.name} boots from {file}, which this host does not have")
