"""The VMs of this host: defined, started, stopped, deleted, moved in and out, found again after a restart.

Invariants: a guest is let run only if the registry says, at that moment, that this host owns the VM under the very
epoch that this host remembers; and never while it moves, but by the move. A restart of the agent touches no guest.
What is remembered is written before it is acted upon.

    record  runs  QEMU        state
    yes     no    none        off             started by `start`, deleted by `delete`
    yes     yes   lives       running, paused; a guest that powers off becomes off
    yes     yes   none        crashed         started again by `start`, an operator's word
    no      -     waits       incoming        see `arrivals`; `take_ownership` makes it this host's own

Deliberately not here: how a QEMU is started (launcher), the steps of a move (migration), and HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

from kvmove.agent.arrivals import Arrivals
from kvmove.agent.launcher import Launcher
from kvmove.agent.local_vm import LocalVm, trim
from kvmove.agent.ownership_guard import require_owner, require_right_to_run
from kvmove.agent.qemu_state import state_of
from kvmove.agent.vm_store import VmRecord, VmStore
from kvmove.errors import Busy, CheckFailed, KvmoveError, NotFound, Unreachable
from kvmove.model.image import DiskImage
from kvmove.model.vm import Power, VmDefinition, VmState, VmStatus
from kvmove.qemu import run_control
from kvmove.qemu.instance import Instance
from kvmove.qemu.monitor import Event
from kvmove.registry.interface import Registry

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 60.0
"""How long `stop` waits for a guest to heed the power button."""

ADOPT_AGAIN_SECONDS = 10.0


class VmManager:
    """All VMs of the host called `name`. Call `recover` before anything else and `close` in the end."""

    def __init__(self, name: str, store: VmStore, launcher: Launcher, registry: Registry) -> None:
        self._name = name
        self._store = store
        self._launcher = launcher
        self._registry = registry
        self._vms: dict[UUID, LocalVm] = {}
        self._arrivals = Arrivals(name, launcher)
        self._tasks: set[asyncio.Task[None]] = set()

    # -- the agent's life --------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Find the VMs and their QEMUs again after a restart of the agent; definitions cut short are undone.

        A QEMU that does not answer is tried again and again in the background.

        :raise NeedsAttention: a record is damaged.
        """
        for record in await asyncio.to_thread(self._store.load):
            vm = self._vms[record.definition.uuid] = LocalVm(record)
            if record.epoch == 0:
                await self._undo_definition_after_restart(vm.definition)
        await asyncio.gather(*(self._adopt_one(vm) for vm in list(self._vms.values())))

    async def close(self) -> None:
        """Let go of all QEMUs; they and their guests run on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for vm in list(self._vms.values()):
            if vm.instance is not None:
                await vm.instance.disconnect()
        await self._arrivals.disconnect()

    async def _adopt_one(self, vm: LocalVm) -> None:
        try:
            instance = await self._launcher.adopt(vm.definition)
        except KvmoveError as error:
            log.error("VM %s: its QEMU lives and does not answer: %s", vm.definition.name, error.detail)
            self._spawn(self._adopt_later(vm))
            return
        if instance is not None:
            self._attach(vm, instance)
            await self._clear_if_powered_off(vm)
        elif vm.record.runs:
            await self._note_crash(vm)

    async def _adopt_later(self, vm: LocalVm) -> None:
        await asyncio.sleep(ADOPT_AGAIN_SECONDS)
        if vm.instance is None and self._vms.get(vm.definition.uuid) is vm:
            await self._adopt_one(vm)

    # -- what the operator asks --------------------------------------------------------------------------------------

    async def statuses(self) -> list[VmStatus]:
        """All VMs of this host, those that are moving in included, as they are now."""
        own = await asyncio.gather(*(self._status(vm) for vm in self._vms.values()))
        return [*own, *await self._arrivals.statuses()]

    async def status(self, vm: UUID) -> VmStatus:
        """:raise NotFound: this host has no such VM."""
        return await self._status(self._find(vm))

    async def images(self, vm: UUID) -> list[DiskImage]:
        """What the images of its disks are. :raise NotFound: this host has no such VM."""
        return await asyncio.to_thread(self._launcher.disks.images, self._find(vm).definition)

    async def define(self, definition: VmDefinition) -> VmStatus:
        """Make the VM's disks and register it as this host's own; it is off. Repeating it changes nothing.

        :raise Busy: the UUID or the name is taken, or another host owns the VM.
        :raise CheckFailed: KVM is asked for and not there, or a datastore is too full.
        :raise KvmoveError: it cannot be done; nothing of it is left.
        """
        if (known := self._vms.get(definition.uuid)) is not None and known.definition == definition:
            return await self._status(known)
        self.require_free(definition)
        self._launcher.accelerator_for(definition)
        await asyncio.to_thread(self._launcher.swap_files.require_room, definition)
        await asyncio.to_thread(self._launcher.disks.require_none, definition)
        vm = self._vms[definition.uuid] = LocalVm(VmRecord(definition=definition))
        made = False
        async with vm.lock:
            try:
                await self._keep(vm)  # from here on a restart undoes what is half done
                await asyncio.to_thread(self._launcher.disks.make, definition)
                made = True
                owned = await self._registry.claim(definition.uuid, self._name)
                await self._keep(vm, epoch=owned.epoch)
            except BaseException:
                if made:  # else what lies there is somebody else's
                    await asyncio.to_thread(self._launcher.disks.delete, definition)
                await self._forget(definition.uuid)
                raise
        return await self._status(vm)

    async def start(self, vm: UUID) -> VmStatus:
        """Start the VM; nothing happens when it runs. A paused guest goes on.

        :raise CheckFailed: this host's copy is out of date, or the host lacks something.
        :raise Busy: another host owns it, or it moves.
        :raise Unreachable: the registry does not answer; nothing was started.
        :raise KvmoveError: it cannot be started; it is off.
        """
        found = self._find(vm)
        async with found.lock:
            found.require_no_move()
            await self._require_ownership(found)
            await self._end_if_powered_off(found)
            if found.instance is not None:
                await run_control.cont(found.instance.monitor)
                return await self._status(found)
            accelerator = self._launcher.accelerator_for(found.definition)
            instance = await self._launcher.launch(found.definition)
            try:
                await self._keep(found, runs=True, accelerator=accelerator)
                await run_control.cont(instance.monitor)
            except BaseException:
                await self._launcher.clear(vm, instance)
                await self._keep(found, runs=False)
                raise
            self._attach(found, instance)
        return await self._status(found)

    async def stop(self, vm: UUID, *, timeout: float = SHUTDOWN_SECONDS) -> VmStatus:
        """Press the power button and wait until the guest has shut down. Nothing happens when it is off.

        :raise CheckFailed: it did not within `timeout` seconds, or is paused and cannot; it is as it was.
        :raise Busy: it moves.
        """
        found = self._find(vm)
        async with found.lock:
            found.require_no_move()
            if found.instance is None:
                return await self._off(found)
            if await run_control.run_state(found.instance.monitor) != run_control.RUNNING:
                raise CheckFailed(f"VM {found.definition.name} is paused and cannot shut down", hint=_FORCE)
            await run_control.power_button(found.instance.monitor)
        try:
            async with asyncio.timeout(timeout):
                await found.gone.wait()
        except TimeoutError as error:
            raise CheckFailed(
                f"VM {found.definition.name} did not shut down within {timeout:g} s", hint=_FORCE
            ) from error
        return await self._status(found)

    async def pause(self, vm: UUID) -> VmStatus:
        """Let the guest stand still, its memory kept. Nothing happens when it does.

        :raise CheckFailed: it is off. :raise Busy: it moves. :raise Unreachable: its QEMU does not answer.
        """
        found = self._find(vm)
        async with found.lock:
            found.require_no_move()
            await run_control.stop(self.instance(vm).monitor)
        return await self._status(found)

    async def resume(self, vm: UUID) -> VmStatus:
        """Let a paused guest go on; nothing happens when it runs. Raises as `start` does; CheckFailed: it is off."""
        found = self._find(vm)
        async with found.lock:
            found.require_no_move()
            await self._require_ownership(found)
            await run_control.cont(self.instance(vm).monitor)
        return await self._status(found)

    async def kill(self, vm: UUID) -> VmStatus:
        """End the VM as if the power went. Nothing happens when it is off.

        :raise Busy: it moves. :raise Unreachable: its QEMU does not end even by SIGKILL.
        """
        found = self._find(vm)
        async with found.lock:
            found.require_no_move()
            return await self._off(found)

    async def delete(self, vm: UUID) -> None:
        """Delete a VM that is off, with its disks, beyond recovery.

        :raise Busy: it is not off, it moves, or another host owns it.
        :raise Unreachable: the registry does not answer; nothing was deleted.
        """
        found = self._find(vm)
        async with found.lock:
            found.require_no_move()
            if found.instance is not None or self._launcher.is_there(vm) is not None:
                raise Busy(f"VM {found.definition.name} is not off", hint="Stop it first: kvmove vm stop.")
            owned = await self._registry.get(vm)
            if owned is not None:
                require_owner(found.definition.name, self._name, owned)
                await self._registry.release(owned)
            await asyncio.to_thread(self._launcher.disks.delete, found.definition)
            await self._forget(vm)
            self._launcher.remove_logs(vm)

    # -- what a move asks (migration.host_parts.LocalVms) ------------------------------------------------------------

    def definition(self, vm: UUID) -> VmDefinition:
        """:raise NotFound: this host has no such VM."""
        return self._find(vm).definition

    def instance(self, vm: UUID) -> Instance:
        """The VM's QEMU.

        :raise CheckFailed: it has none that answers.
        """
        found = self._find(vm)
        if found.instance is None:
            raise CheckFailed(f"VM {found.definition.name} does not run on {self._name}")
        return found.instance

    async def power(self, vm: UUID) -> Power:
        """How the VM is, for a move of it.

        :raise CheckFailed: it cannot be moved as it is. :raise Unreachable: its QEMU does not answer.
        """
        found = self._find(vm)
        instance = self.surviving(vm)
        if instance is None and found.record.runs:
            raise CheckFailed(f"the QEMU of VM {found.definition.name} has ended", hint="Start it, then move it.")
        if instance is None:
            return Power.OFF
        state = await run_control.run_state(instance.monitor)
        if state == run_control.POSTMIGRATE:
            raise CheckFailed(
                f"VM {found.definition.name} came back paused from an earlier move, and QEMU has let go of its disks",
                hint=f"Resume it, then move it: kvmove vm resume {found.definition.name}",
            )
        return Power.RUNNING if state == run_control.RUNNING else Power.PAUSED

    def require_free(self, definition: VmDefinition) -> None:
        """:raise Busy: this host has the VM, or one of its name, already."""
        for other in [*(vm.definition for vm in self._vms.values()), *self._arrivals.definitions()]:
            if other.uuid == definition.uuid:
                raise Busy(f"{self._name} has VM {other.uuid} already, as {other.name}")
            if other.name == definition.name:
                raise Busy(f"{self._name} has a VM called {other.name} already", hint="Choose another name.")

    def surviving(self, vm: UUID) -> Instance | None:
        """The VM's QEMU, after a restart of the agent; None when it has ended.

        :raise Unreachable: it lives and does not answer yet.
        """
        instance = self._find(vm).instance
        if instance is None and (pid := self._launcher.is_there(vm)) is not None:
            raise Unreachable(f"QEMU (pid {pid}) of VM {self._find(vm).definition.name} does not answer")
        return instance

    def begin_move(self, vm: UUID, move_id: str, epoch: int) -> None:
        """Keep others off the VM, which is here under `epoch`, while it moves. A guest that powers off stays in its
        QEMU until `end_move`.

        :raise Busy: it moves already, is being started, stopped or deleted, or is here under another epoch.
        """
        found = self._find(vm)
        if found.record.epoch != epoch:
            raise Busy(f"VM {found.definition.name} has been moved since this move was planned", hint="Plan it anew.")
        found.require_no_move()
        if found.lock.locked():
            raise Busy(f"VM {found.definition.name} is being started, stopped or deleted", hint="Try again.")
        found.move_id = move_id

    def end_move(self, vm: UUID, epoch: int) -> None:
        """The move is over and the VM stays here, under `epoch`; durable when this returns."""
        found = self._find(vm)
        found.record = found.record.model_copy(update={"epoch": epoch})
        self._store.write(found.record)
        found.move_id = None
        self._spawn(self._clear_if_powered_off(found))

    async def disks_moved(self, definition: VmDefinition) -> None:
        """The VM's disks lie where `definition` says from now on, durably. Repeating it changes nothing."""
        found = self._find(definition.uuid)
        await self._keep(found, definition=definition)
        self._spawn(trim(found))

    async def start_incoming(self, definition: VmDefinition, move_id: str) -> Instance:
        """Start a QEMU that waits for the VM's memory; its disks are there. Undone by `discard_incoming`.

        :raise Busy: the VM, or one of its name, is this host's already.
        :raise KvmoveError: it cannot be started; nothing of it is left.
        """
        self.require_free(definition)
        return await self._arrivals.start(definition, move_id)

    async def adopt_incoming(self, definition: VmDefinition, move_id: str) -> Instance | None:
        """After a restart of the agent: the QEMU that waited for this move, if it still lives.

        :raise Unreachable: it lives and does not answer.
        """
        return await self._arrivals.adopt(definition, move_id)

    async def discard_incoming(self, vm: UUID) -> None:
        """End that QEMU and forget the VM; its disks are not touched. No harm when there is none.

        :raise Busy: the VM is this host's own. :raise Unreachable: QEMU does not end.
        """
        if vm in self._vms:
            raise Busy(f"VM {self._vms[vm].definition.name} is {self._name}'s own; it is not discarded")
        await self._arrivals.discard(vm)

    async def take_ownership(self, definition: VmDefinition, epoch: int, *, runs: bool) -> None:
        """The VM that moved in is this host's own, durably; `runs`: it has a QEMU. Repeating it changes nothing."""
        accelerator = self._launcher.accelerator_for(definition)
        record = VmRecord(definition=definition, epoch=epoch, runs=runs, accelerator=accelerator)
        vm = self._vms.get(definition.uuid) or LocalVm(record)
        vm.record = record
        await self._keep(vm)
        self._vms[definition.uuid] = vm
        instance = self._arrivals.take(definition.uuid)
        if instance is not None:
            self._attach(vm, instance)
            await self._clear_if_powered_off(vm)
            self._spawn(trim(vm))

    async def give_away(self, vm: UUID, epoch: int) -> bool:
        """The VM, which was here under `epoch`, is elsewhere: end its paused QEMU and forget it, durably; its disks are
        not touched. False, and nothing is done: it has come back since, or is about to. Repeating it changes nothing.

        :raise Unreachable: QEMU does not end; the VM is remembered still.
        """
        found = self._vms.get(vm)
        if self._arrivals.has(vm) or (found is not None and found.record.epoch > epoch):
            return False
        if found is None:
            await self._launcher.clear(vm, None)
        else:
            await self._end_qemu(found)
        await self._forget(vm)
        return True

    # -- a QEMU's life -----------------------------------------------------------------------------------------------

    def _attach(self, vm: LocalVm, instance: Instance) -> None:
        """From now on the VM runs in `instance`, which is watched."""
        vm.instance = instance
        vm.gone.clear()

        def listen(event: Event) -> None:
            if event.name == "SHUTDOWN":
                self._spawn(self._clear_if_powered_off(vm))

        instance.monitor.on_event(listen)
        self._spawn(self._watch(vm, instance))

    async def _end_qemu(self, vm: LocalVm) -> None:
        """The VM has no QEMU any more when this returns, by our own doing."""
        instance, vm.instance, vm.ending = vm.instance, None, True
        try:
            await self._launcher.clear(vm.definition.uuid, instance)
        finally:
            vm.ending = False
        vm.gone.set()

    async def _watch(self, vm: LocalVm, instance: Instance) -> None:
        """See a QEMU end that nobody ended."""
        await instance.process.wait_ended()
        async with vm.lock:  # a `start` that comes at once would find its new runtime folder swept away
            if vm.instance is instance:
                vm.instance = None
                await instance.disconnect()
                await self._note_crash(vm)
                vm.gone.set()

    async def _note_crash(self, vm: LocalVm) -> None:
        said = self._launcher.last_words(vm.definition.uuid)
        log.error("VM %s: its QEMU has ended by itself: %s", vm.definition.name, said or "it said nothing")
        await self._launcher.sweep(vm.definition.uuid)

    async def _clear_if_powered_off(self, vm: LocalVm) -> None:
        """A guest that has powered off leaves its QEMU behind; clear it away, unless a move has it."""
        async with vm.lock:
            if vm.move_id is None:
                with contextlib.suppress(Unreachable):  # it ended, or hangs: `_watch` and the operator see to it
                    await self._end_if_powered_off(vm)

    async def _end_if_powered_off(self, vm: LocalVm) -> None:
        if vm.instance is not None and await run_control.run_state(vm.instance.monitor) == run_control.SHUTDOWN:
            await self._off(vm)

    async def _off(self, vm: LocalVm) -> VmStatus:
        """The VM is to be off. The caller holds the lock."""
        await self._keep(vm, runs=False)
        await self._end_qemu(vm)
        return await self._status(vm)

    # -- small parts -------------------------------------------------------------------------------------------------

    def _find(self, vm: UUID) -> LocalVm:
        if vm not in self._vms:
            raise NotFound(f"{self._name} has no VM {vm}", hint="See where it is: kvmove vm list")
        return self._vms[vm]

    async def _status(self, vm: LocalVm) -> VmStatus:
        pid = vm.instance.process.pid if vm.instance is not None else self._launcher.is_there(vm.definition.uuid)
        return VmStatus(
            definition=vm.definition,
            host=self._name,
            state=await self._state(vm, pid),
            epoch=vm.record.epoch,
            pid=pid,
            accelerator=vm.record.accelerator or "",
            move_id=vm.move_id,
        )

    async def _state(self, vm: LocalVm, pid: int | None) -> VmState:
        if vm.ending:
            return VmState.OFF
        if vm.instance is not None:
            return await state_of(vm.instance)
        if pid is not None:
            return VmState.UNKNOWN
        return VmState.CRASHED if vm.record.runs else VmState.OFF

    async def _require_ownership(self, vm: LocalVm) -> None:
        """The guard of every start."""
        owned = await self._registry.get(vm.definition.uuid)
        require_right_to_run(vm.definition.name, self._name, vm.record.epoch, owned)

    async def _keep(self, vm: LocalVm, **changes: Any) -> None:
        """Remember the VM with `changes`; durable when this returns."""
        vm.record = vm.record.model_copy(update=changes)
        await asyncio.to_thread(self._store.write, vm.record)

    async def _forget(self, vm: UUID) -> None:
        await asyncio.to_thread(self._store.remove, vm)
        self._vms.pop(vm, None)

    async def _undo_definition_after_restart(self, definition: VmDefinition) -> None:
        """Disks and record go; only the record if another host has the VM by now, and the disks with it."""
        try:
            owned = await self._registry.get(definition.uuid)
            if owned is None or owned.owner == self._name:
                await asyncio.to_thread(self._launcher.disks.delete, definition)
            await self._forget(definition.uuid)
        except KvmoveError as error:
            log.error("VM %s was half defined and cannot be removed: %s", definition.name, error.detail)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a watcher of a VM failed: %r", error)


_FORCE = "End it without the guest's help: kvmove vm stop --force."
