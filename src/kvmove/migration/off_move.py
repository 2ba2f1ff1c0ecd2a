"""The source's part of a move of a VM that is off: what `source` does, without memory, mirrors and a guest to pause.

prepare         see `outgoing`
copy disks      one pass; nobody writes to them
switch over     the destination syncs; then the registry decides
clean up        the source forgets the VM; its disks are put aside
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from kvmove.failpoints import reach
from kvmove.migration.host_parts import HostParts
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.outgoing import OutgoingMove
from kvmove.migration.switchover import Decision, Timing, settle
from kvmove.model.move import MovePlan, Phase
from kvmove.qemu.migration import MigrationInfo, Status


class OffMove(OutgoingMove):
    """See the file's head. Nobody starts the VM meanwhile: the agent keeps others off it while it moves."""

    def __init__(self, host: HostParts, plan: MovePlan, ticket: bytes, board: MoveBoard) -> None:
        super().__init__(host, plan, ticket, board, None)
        self._info = MigrationInfo(Status.COMPLETED)

    async def _phases(self, undo: AsyncExitStack, release: AsyncExitStack) -> Decision:
        await self._watch.during(self._prepare(undo, release))
        if self.plan.disks:
            self._enter(Phase.COPYING_DISKS)
            await reach("source-mirroring")
            await self._watch.during(self._copy_bulk())
        await self._watch.during(self._wait_for_word(self._disks if self.plan.disks else None))
        await self._watch.during(self._wait_in_touch())
        self.steering.is_over()
        self._enter(Phase.SWITCHING_OVER)
        parts, timing = self._switchover_parts(), Timing()
        await self._watch.during(settle(parts, timing))
        return await self._hand_over(undo, parts, timing)
