"""A storage move on one host, top to bottom: the VM stays in its QEMU, and its disks go to other datastores.

    prepare         disks are made, partial                  undo: they are deleted
    copy disks      mirrors on, drain, copy                  undo: mirrors off
                    in step: wait for the word, if it is so asked for
    switch over     new images added to QEMU                 undo: taken away again
                    the guest stands still                   undo: it goes on
                    drain, sync, mirrors end
                    QEMU uses the new images                 undo: it uses the old ones again
                    YIELDED is written                       from here the new disks are the VM's
                    the guest goes on
    clean up        definition and folders follow; the old disks are put aside

Invariant: until YIELDED is on stable storage the guest writes to the old disks, or stands still; so the old disks hold
everything, and the new ones may be deleted. After it the same is true the other way round. No other host takes part,
so nothing is asked of the registry.

The undos run last first. Deliberately not here: what a restarted agent owes (storage_recovery).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from kvmove.disk.offload import Offload
from kvmove.errors import Cancelled, KvmoveError, MoveFailed
from kvmove.failpoints import reach
from kvmove.migration.disk_images import SourceImages, TargetImages, quietly
from kvmove.migration.disk_mirrors import DiskMirrors, moving_disks
from kvmove.migration.host_parts import HostParts
from kvmove.migration.journal import Step
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.new_disks import NewDisks
from kvmove.migration.outgoing import require_power
from kvmove.migration.procedure import COPY_LOOK_SECONDS, Procedure
from kvmove.migration.switchover import DRAIN_SECONDS, SYNC_SECONDS, Timing, pause
from kvmove.migration.watch import MoveWatch, VmLost, vm_lost
from kvmove.model.move import MovePlan, Phase
from kvmove.model.vm import DiskFormat, Power
from kvmove.mover.disk_move import DiskMove
from kvmove.qemu import run_control
from kvmove.qemu.block_jobs import CopyMode
from kvmove.qemu.instance import Instance
from kvmove.qemu.migration import MigrationInfo, Status
from kvmove.qemu.pivot import Pivot

log = logging.getLogger(__name__)


class StorageMove(Procedure):
    """One storage move of this host. `instance` None: the VM is off; there is no guest to stand still, and no QEMU to
    be switched. A paused guest stays paused throughout."""

    def __init__(self, host: HostParts, plan: MovePlan, board: MoveBoard) -> None:
        self._instance = None if plan.power is Power.OFF else host.vms.instance(plan.vm.uuid)
        super().__init__(host, plan, board, MoveWatch(plan, self._instance))
        self._new = NewDisks(host, plan)
        self._sources = SourceImages(host, plan, self._instance)
        self._targets = TargetImages(host, plan, self._new.store)
        self._disks: DiskMove

    async def _carry_out(self) -> None:
        stun_ms = await self._unless_undone(self._phases)
        self.board.enter(Phase.CLEANING_UP)
        await self._new.take(self._instance, self.board)
        self.board.ended(Phase.COMPLETED, MigrationInfo(Status.COMPLETED, downtime_ms=round(stun_ms)))

    async def _failed(self, error: KvmoveError) -> None:
        """The VM is on its old disks, as it was.

        :raise KvmoveError: it is not, by a defect of ours: the move stays unfinished, and the agent's next start takes
            it up. To call it undone would bring the old disks back.
        """
        if self._yielded:
            raise error
        if not self._watch.vm_lives():
            error = vm_lost(self.plan)
        elif self._watch.guest_is_off:
            error.vm_state = f"off on {self._host.name}"
        self.board.failing(error, instead=isinstance(error, VmLost))
        self._host.vms.end_move(self.plan.vm.uuid, self.plan.epoch)
        self.board.ended(Phase.LOST if isinstance(error, VmLost) else Phase.ABORTED)

    async def _phases(self, undo: AsyncExitStack, release: AsyncExitStack) -> float:
        """How long the guest stood still (ms)."""
        await self._watch.during(self._prepare(undo, release))
        mirrors = None
        if self._instance is not None:
            mirrors = DiskMirrors(self._host, self.plan, self._instance, self._disks)
        self._enter(Phase.COPYING_DISKS)
        await self._watch.during(self._copy_disks(mirrors, undo, release))
        await self._watch.during(self._wait_for_word(self._disks))
        self.steering.is_over()
        self._enter(Phase.SWITCHING_OVER)
        timing = Timing()
        began = time.monotonic()
        if self._instance is None or mirrors is None:
            await self._seal()
            timing.mark("sync")
        else:
            await self._add_images(self._instance, undo, sealed=False)
            timing, began = Timing(), time.monotonic()
            await self._switch(self._instance, mirrors, undo, timing)
        await self._give_word()
        self._yielded = True
        undo.pop_all()  # from here the new disks are the VM's: the guest may write to them
        self.board.yielded()
        self.board.decided(by_destination=True, parts=timing.parts)
        if self._instance is None:
            return 0.0
        await self._new.let_run(self._instance, self.board)
        return (time.monotonic() - began) * 1000

    # Preparing.

    async def _prepare(self, undo: AsyncExitStack, release: AsyncExitStack) -> None:
        await require_power(self._host, self.plan)
        self._journal.write(Step.BEGAN, {"plan": self.plan.model_dump(mode="json")})
        undo.push_async_callback(self._surely, self._discard)
        await self._new.bring_bases(self.board, self.steering)
        await self._new.make()
        release.push_async_callback(self._targets.close)
        release.push_async_callback(self._sources.close)
        undo.push_async_callback(quietly, self._targets.give_up)  # before the disks are anybody else's
        await self._targets.open()
        await self._sources.open()
        sources, targets = self._sources.disks, self._targets.disks
        offloads = [Offload(source, target) for source, target in zip(sources, targets, strict=True)]
        disks, terms = moving_disks(self.plan, sources), self.steering.copy_terms
        self._disks = DiskMove.within_host(disks, offloads, self._host.mover, terms)
        release.push_async_callback(asyncio.to_thread, self._disks.stop)
        undo.push_async_callback(asyncio.to_thread, self._disks.stop)  # before the disks are anybody else's
        self._watch.disks = self._disks
        self.board.watch_disks(self._disks)
        self.steering.steer_disks(self._disks)
        await asyncio.to_thread(self._disks.start, COPY_LOOK_SECONDS)
        await reach("storage-prepared")

    # Disks.

    async def _copy_disks(self, mirrors: DiskMirrors | None, undo: AsyncExitStack, release: AsyncExitStack) -> None:
        if mirrors is not None:
            await mirrors.start(CopyMode.WRITE_BLOCKING, undo, release)
        await reach("storage-mirroring")
        self._disks.start_copy()
        while not await asyncio.to_thread(self._disks.wait_copied, COPY_LOOK_SECONDS):
            log.debug("move %s: the disks are not copied yet", self.plan.move_id)
        await asyncio.to_thread(self._disks.sync_targets)  # what is left for the stun is less

    async def _seal(self) -> None:
        await asyncio.to_thread(self._disks.sync_targets)
        await self._targets.seal()

    # The switchover.

    async def _add_images(self, instance: Instance, undo: AsyncExitStack, *, sealed: bool) -> None:
        """Raw images while the guest runs; others, whose tables QEMU would read too early, once they are sealed."""
        for placement, pivot in zip(self.plan.disks, self._new.pivots(instance), strict=True):
            if sealed is (placement.format is not DiskFormat.RAW):
                undo.push_async_callback(quietly, pivot.abandon)
                await pivot.prepare()

    async def _switch(self, instance: Instance, mirrors: DiskMirrors, undo: AsyncExitStack, timing: Timing) -> None:
        """:raise KvmoveError: the old disks are the VM's still, and hold everything."""
        if self.plan.power is Power.RUNNING:
            undo.push_async_callback(quietly, self._let_old_disks_run, instance)
            await run_control.stop(instance.monitor)
        timing.mark("stop")
        await self._settle()
        timing.mark("drain")
        self._disks.expect_mirrors_to_end(expected=True)
        await asyncio.gather(self._seal(), *(mirror.finish(timeout=SYNC_SECONDS) for mirror in mirrors.jobs))
        if not await asyncio.to_thread(self._disks.wait_settled, 0):
            raise MoveFailed("A write came after the guest was stopped.")
        timing.mark("sync")
        await reach("storage-synced")
        await self._sources.close()  # QEMU would take its exports along to the new images
        await self._add_images(instance, undo, sealed=True)
        undo.push_async_callback(self._surely, self._switch_back)
        for pivot in self._new.pivots(instance):
            await pivot.switch()
        timing.mark("pivot")
        await reach("storage-pivoted")

    async def _settle(self) -> None:
        if not await asyncio.to_thread(self._disks.wait_settled, DRAIN_SECONDS):
            raise MoveFailed(f"The last disk writes could not be delivered within {DRAIN_SECONDS:.0f} s.")

    async def _let_old_disks_run(self, instance: Instance) -> None:
        """Undo of the stop. A guest whose disk is on a new image still, because switching back was broken off, stands
        still until the agent's next start has done it: what it wrote there would be deleted.

        :raise KvmoveError: QEMU does not answer, or it is so.
        """
        for pivot in self._pivots():
            if await pivot.settle():
                raise MoveFailed(f"the guest stands still: {pivot.file} is in use and is to be given up")
        await run_control.cont(instance.monitor)

    async def _switch_back(self) -> None:
        for pivot in self._pivots():
            await pivot.switch_back()

    def _pivots(self) -> list[Pivot]:
        return self._new.pivots(self._instance) if self._instance is not None else []

    async def _discard(self) -> None:
        await self._new.discard(self._instance)

    async def _discard_all(self) -> None:
        """:raise KvmoveError: new disks are there still, or may be."""
        await self._discard()
        if self._new.are_there():
            raise MoveFailed("the new disks cannot be deleted")

    async def _take_word_back(self) -> None:
        """:raise KvmoveError: QEMU uses a new disk, or one is there still."""
        for pivot in self._pivots():
            await pivot.switch_back()
            await pivot.abandon()
        await self._discard_all()

    async def _surely(self, undo: Callable[[], Awaitable[None]]) -> None:
        """An undo that the later ones build on: it is tried until it is done, or there is no QEMU to undo it in."""
        while True:
            try:
                await undo()
                return
            except KvmoveError as error:
                log.error("move %s is not undone yet: %s", self.plan.move_id, error.detail)
                self.board.message = f"the move is not undone yet: {error.detail}"
                if not self._watch.vm_lives():
                    return
                await pause()

    async def _give_word(self) -> None:
        """Write YIELDED. What could not be written may be read all the same: so the guest goes on with its old disks
        only when there are no new ones that could be taken for the truth.

        :raise MoveFailed: it could not be written; the new disks are gone. :raise KvmoveError: it was not to be.
        """
        if self._watch.cancelled.is_set():
            raise Cancelled("The operator cancelled the move.")
        if not self._watch.vm_lives():
            raise vm_lost(self.plan)
        try:
            self._journal.write(Step.YIELDED, {})
        except OSError as error:
            await self._surely(self._take_word_back)
            raise MoveFailed(f"The agent's journal cannot be written: {error}.") from error
