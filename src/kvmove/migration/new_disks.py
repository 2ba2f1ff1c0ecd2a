"""The new disks of a storage move: made, given up, or made the VM's own. Used by the move and by its recovery.

`discard` and `take` are the two ways out, and may each be done again after a restart; never both (see storage_move).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack

from kvmove.disk.datastore import Datastore
from kvmove.disk.offload import Offload
from kvmove.errors import KvmoveError, MoveFailed
from kvmove.failpoints import reach
from kvmove.migration.bases import NO_BASES, NewBases, SourceBases, copy_cold
from kvmove.migration.clean_up import leaving_disks
from kvmove.migration.host_parts import HostParts
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.steering import Steering
from kvmove.migration.switchover import pause
from kvmove.model.move import DiskPlacement, MovePlan
from kvmove.model.vm import Power
from kvmove.mover.disk_move import DiskMove
from kvmove.qemu import run_control
from kvmove.qemu.instance import Instance
from kvmove.qemu.pivot import Pivot

log = logging.getLogger(__name__)


class NewDisks:
    """Those of one plan."""

    def __init__(self, host: HostParts, plan: MovePlan) -> None:
        self._host = host
        self._plan = plan
        self._vm = plan.vm.uuid
        self._bases = NewBases(plan, NO_BASES, self.store)

    async def bring_bases(self, board: MoveBoard, steering: Steering) -> None:
        """Copy what the disks rest on, unless their datastores have it.

        :raise KvmoveError: it failed; `discard` what is there.
        """
        source = SourceBases(self._host, self._plan)
        await source.find()
        self._bases = NewBases(self._plan, source.bases, self.store)
        wanted = await asyncio.to_thread(self._bases.missing)
        await self._bases.make(wanted)
        with ExitStack() as release:
            disks, targets = source.open(wanted, release), self._bases.open(wanted, release)
            offloads = [Offload(disk.source, target) for disk, target in zip(disks, targets, strict=True)]
            move = DiskMove.within_host(disks, offloads, self._host.mover, steering.copy_terms)
            steering.steer_disks(move)
            await copy_cold(move, board)
        await self._bases.commit()

    async def make(self) -> None:
        """Make them, partial.

        :raise KvmoveError: one cannot be made; `discard` what is there.
        """
        coming = self._plan.disks_of(lambda disk: disk.destination_datastore)
        for placement in self._plan.disks:
            store, disk = self.store(placement), self._plan.new_disk(placement)
            await asyncio.to_thread(store.begin_incoming, self._vm, self._plan.move_id, coming[store.name])
            below = self._bases.under(placement)
            await asyncio.to_thread(store.create_disk, self._vm, disk, reserve=placement.space, below=below)

    def store(self, placement: DiskPlacement) -> Datastore:
        """Where the new disk lies."""
        return self._host.datastores[placement.destination_datastore]

    def pivots(self, instance: Instance) -> list[Pivot]:
        """The switch of each disk to its new image; of disks on devices only once they were made.

        A datastore of files is not looked at: it may be gone, and QEMU be on its new image all the same.

        :raise KvmoveError: a datastore of devices cannot be looked at.
        """
        pivots = []
        for disk in self._plan.disks:
            store = self.store(disk)
            if store.is_of_devices and not store.has_disk(self._vm, disk.name):
                continue
            file = store.named_path(self._vm, self._plan.new_disk(disk))
            pivots.append(Pivot(instance, self._plan.vm, disk.name, file, is_device=store.is_of_devices))
        return pivots

    def are_there(self) -> bool:
        """Whether they were not discarded.

        :raise KvmoveError: a datastore cannot be looked at.
        """
        return all(self.store(disk).has_disk(self._vm, disk.name) for disk in self._plan.disks)

    async def discard(self, instance: Instance | None) -> None:
        """Delete them, if they were made. Only while the old disks hold everything; `instance` None: QEMU has ended.

        What a datastore does not let go of is logged, and stays there, marked as partial, until the agent's
        housekeeping finds it.

        :raise MoveFailed: QEMU uses one; none was deleted. :raise Unreachable: QEMU does not say; none was deleted.
        """
        if instance is not None and instance.process.is_alive():
            for pivot in self.pivots(instance):
                if await pivot.settle():
                    raise MoveFailed(f"QEMU uses {pivot.file}; it is not deleted")
        for name in self._destinations():
            store = self._host.datastores[name]
            try:
                if self._vm in store.vms() and store.incoming_move(self._vm) == self._plan.move_id:
                    await asyncio.to_thread(store.discard_incoming, self._vm, self._plan.move_id)
                await asyncio.to_thread(store.discard_bases, self._plan.move_id)
            except KvmoveError as error:
                log.error("what move %s has made in %s stays there: %s", self._plan.move_id, name, error.detail)

    async def let_run(self, instance: Instance, board: MoveBoard) -> None:
        """The new disks are the VM's: let a guest that ran go on, however long QEMU takes to answer."""
        while self._plan.power is Power.RUNNING and instance.process.is_alive():
            try:
                await run_control.go_on(instance.monitor)
                return
            except KvmoveError as error:
                log.error("VM %s cannot be let run: %s", self._plan.vm.name, error.detail)
                board.message = f"the guest cannot be let run: {error.detail}"
                await pause()

    async def take(self, instance: Instance | None, board: MoveBoard) -> None:
        """They are the VM's: definition and folders follow, and the old ones are put aside. Goes on until it is done.

        `instance` None: the VM's QEMU has ended meanwhile.
        """
        while True:
            try:
                await reach("storage-cleaning-up")
                await self._take(instance if instance is not None and instance.process.is_alive() else None)
                board.message = ""
                return
            except (KvmoveError, OSError) as error:
                log.error("move %s is not cleaned up yet: %s", self._plan.move_id, error)
                board.message = f"something is left of the old disks: {error}"
                await pause()

    async def _take(self, instance: Instance | None) -> None:
        for name in self._destinations():
            await asyncio.to_thread(self._host.datastores[name].commit_incoming, self._vm, self._plan.move_id)
        await self._host.vms.disks_moved(self._plan.vm)
        if instance is not None:
            for pivot in self.pivots(instance):
                await pivot.finish()
        for name, disks in self._plan.disks_of(lambda disk: disk.source_datastore).items():
            store = self._host.datastores[name]
            if any(store.has_disk(self._vm, disk) for disk in disks):  # else an agent that died here has put them aside
                leaving = leaving_disks(self._plan, disks)
                await asyncio.to_thread(store.quarantine, self._vm, self._plan.move_id, leaving)
        self._host.vms.end_move(self._vm, self._plan.epoch)

    def _destinations(self) -> list[str]:
        return sorted({disk.destination_datastore for disk in self._plan.disks})
