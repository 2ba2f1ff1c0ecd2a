"""What an agent owes when it starts again and finds a storage move unfinished in its journal.

    journal                                then
    BEGAN                                  undone: QEMU uses the old disks, the guest runs, the new disks are deleted
    YIELDED, and the new disks are there   finished: the guest runs on the new disks, which are the VM's
    YIELDED, and they are gone             undone: the agent could not be sure of its journal, and gave them up

A QEMU that has ended changes nothing about which disks hold everything (see storage_move).
"""

from __future__ import annotations

import logging

from kvmove.errors import KvmoveError, MoveFailed
from kvmove.migration.host_parts import HostParts
from kvmove.migration.journal import MoveJournal, Step
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.new_disks import NewDisks
from kvmove.migration.phases import Course, HandOver
from kvmove.migration.recovery import abandon_mirrors
from kvmove.migration.switchover import pause
from kvmove.migration.watch import vm_lost
from kvmove.model.move import Phase
from kvmove.model.vm import Power
from kvmove.qemu import run_control

log = logging.getLogger(__name__)


class StorageRecovery:
    """One unfinished storage move; `run` it once, then the board says how it ended."""

    def __init__(self, host: HostParts, journal: MoveJournal) -> None:
        self.plan = journal.plan()
        self._host = host
        self._journal = journal
        self._new = NewDisks(host, self.plan)
        yielded = journal.has(Step.YIELDED)
        course = Course(Phase.SWITCHING_OVER, HandOver.YIELDED) if yielded else Course(Phase.ABORTING)
        self.board = MoveBoard(self.plan, course)
        self.board.message = "the agent was restarted"

    async def run(self) -> None:
        """Until the move has ended, however long QEMU or a datastore takes."""
        while self.board.status().outcome is None:
            try:
                if self._journal.has(Step.YIELDED) and self._new.are_there():
                    await self._finish()
                else:
                    await self._undo()
            except KvmoveError as error:
                log.error("move %s cannot be taken up yet: %s", self.plan.move_id, error.detail)
                await self._wait(error.detail)
            except Exception as error:
                log.exception("move %s cannot be taken up yet", self.plan.move_id)
                await self._wait(f"a defect of ours: {error!r}")
        self._journal.write(Step.ENDED, {"status": self.board.status().model_dump(mode="json")})

    async def _wait(self, why: str) -> None:
        self.board.message = f"the agent cannot end this move yet: {why}"
        await pause()

    async def _finish(self) -> None:
        instance = self._host.vms.surviving(self.plan.vm.uuid)
        if instance is not None:
            await self._new.let_run(instance, self.board)
        if self.board.course.handed is HandOver.YIELDED:
            self.board.decided(by_destination=True, parts={})
        if instance is None and self.plan.power is not Power.OFF:
            await self._new.take(None, self.board)
            self.board.failing(vm_lost(self.plan))
            self.board.ended(Phase.LOST)
            return
        self.board.enter(Phase.CLEANING_UP)
        await self._new.take(instance, self.board)
        self.board.ended(Phase.COMPLETED)

    async def _undo(self) -> None:
        """All that is done here may be done again. The guest stands still if QEMU uses a new disk."""
        instance = self._host.vms.surviving(self.plan.vm.uuid)
        if instance is not None:
            pivots = self._new.pivots(instance)
            for pivot in pivots:
                await pivot.switch_back()
            if self.plan.power is Power.RUNNING:
                await run_control.go_on(instance.monitor)
            await abandon_mirrors(instance, self.plan)
            for pivot in pivots:
                await pivot.abandon()
        await self._new.discard(instance)
        self._host.vms.end_move(self.plan.vm.uuid, self.plan.epoch)
        if self.board.course.handed is HandOver.YIELDED:
            self.board.decided(by_destination=False, parts={})
        self.board.failing(
            MoveFailed(
                "The agent was restarted while the disks moved; the move was undone.",
                hint="Move again.",
                step=str(self._journal.steps.get(Step.REACHED, {}).get("phase", Phase.PREPARING)),
            )
        )
        lost = instance is None and self.plan.power is not Power.OFF
        self.board.ended(Phase.LOST if lost else Phase.ABORTED)
