"""A move whose source's agent was restarted while disks were copied: the copy goes on where it was.

    journal     BEGAN, REACHED copying-disks, no YIELDED        else `recovery` undoes or decides
    checkpoint  one that can be read, its generation recorded   else `recovery` undoes

The guest has run all the time: its mirrors broke with the old agent, and QEMU kept a record of its writes
(`copy_record`). The destination is told a new ticket over control; the old one died with the old agent. From the copy
on it is the move that it was, and its failure is undone as that one's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from kvmove.disk.interface import SourceDisk
from kvmove.errors import Busy, KvmoveError, Unreachable
from kvmove.migration.checkpoint import Checkpoint
from kvmove.migration.disk_images import quietly
from kvmove.migration.host_parts import HostParts
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.move_record import record_under_way
from kvmove.migration.outgoing import knows_compressed, unsafe_disks
from kvmove.migration.phases import Course
from kvmove.migration.recovery import abandon_mirrors
from kvmove.migration.source import SourceMove
from kvmove.migration.watch import VmLost
from kvmove.model.move import MovePlan, Phase
from kvmove.mover.move_terms import MovingDisk
from kvmove.registry.settle import read_until_known
from kvmove.units import format_size

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
TICKET_BYTES = 32


class ResumedMove(SourceMove):
    """See the file's head. The VM's QEMU must have been adopted."""

    def __init__(self, host: HostParts, plan: MovePlan, checkpoint: Checkpoint) -> None:
        board = MoveBoard(plan, Course(Phase.COPYING_DISKS))
        super().__init__(host, plan, secrets.token_bytes(TICKET_BYTES), board)
        self._checkpoint_before = checkpoint
        self._kept: list[bytes] = []
        self._record = record_under_way(plan)
        # the relay of the agent before may live a moment longer, and takes its socket along
        self._memory_socket = host.run / f"{plan.move_id}-out{secrets.token_hex(2)}.sock"

    async def _prepare(self, undo: AsyncExitStack, release: AsyncExitStack) -> None:
        """What lets it go on, in place of what began it."""
        undo.push_async_callback(quietly, self._abort_ownership, self._record)
        undo.push_async_callback(self._tell_destination)
        undo.push_async_callback(quietly, self._copy_record.end)
        self.board.message = f"the agent of {self._host.name} was restarted; the copy is taken up"
        self._be_patient()
        await abandon_mirrors(self._instance, self.plan)
        await self._require_under_way()
        if not await self._copy_record.has(self._checkpoint_before.generation):
            raise Busy(f"QEMU has not recorded what VM {self.plan.vm.name} wrote since")
        answer = await self._resume_destination()
        self._incarnation = answer["incarnation"]
        self._kept = self._find_kept()
        self.steering.say_again(self._checkpoint_before.steered)
        self.steering.copy_terms.compression.begin(understood=knows_compressed(answer))
        await self._connect(undo, release)

    async def _require_under_way(self) -> None:
        """:raise Busy: the registry says that the move is over: it was being undone."""
        stored = await read_until_known(self._host.registry, self._record, self.board.waiting_for_registry)
        if stored != self._record:
            raise Busy(f"the registry says that VM {self.plan.vm.name} is not in this move any more")

    async def _resume_destination(self) -> dict[str, Any]:
        """:raise KvmoveError: it will not go on, or has not answered as long as a copy waits for it."""
        deadline = time.monotonic() + self._host.mover.give_up
        while True:
            try:
                return await self._destination.resume_incoming(self.plan.move_id, self._dialer.ticket.hex())
            except Unreachable as error:
                if time.monotonic() > deadline:
                    raise
                self.board.message = f"{self.plan.destination.name} is to go on with the copy: {error.detail}"
            await asyncio.sleep(RETRY_SECONDS)

    def _find_kept(self) -> list[bytes]:
        """:raise Busy: the checkpoint is damaged."""
        before = self._checkpoint_before
        try:
            kept = [before.copied(number) for number in range(len(self.plan.disks))]
        except ValueError as error:
            raise Busy(f"what was copied of VM {self.plan.vm.name} is not known any more: {error}") from error
        if before.incarnation != self._incarnation:
            for number in unsafe_disks(self.plan):
                kept[number] = bytes(len(kept[number]))
        return kept

    def _moving(self, sources: Sequence[SourceDisk]) -> list[MovingDisk]:
        moving = super()._moving(sources)
        return [replace(disk, kept=kept) for disk, kept in zip(moving, self._kept, strict=True)]

    async def _copy_disks(self, undo: AsyncExitStack, release: AsyncExitStack) -> None:
        """Mirrors first; then what was written without them is copied again."""
        undo.push_async_callback(quietly, self._copy_record.end)
        await self._start_copy(undo, release)

    async def _keep_record(self, undo: AsyncExitStack) -> None:
        had = sum(disk.copied for disk in self._disks.snapshot()[0])
        await self._copy_record.take_up(self._checkpoint_before.generation, self._disks.discarded)
        kept = sum(disk.copied for disk in self._disks.snapshot()[0])
        self.board.message = ""
        self.board.note(
            f"the agent of {self._host.name} was restarted; the copy goes on: {format_size(kept)} stay as they are, "
            f"and {format_size(max(had - kept, 0))} that the guest has written to are copied again"
        )
        await super()._keep_record(undo)

    async def _failed(self, error: KvmoveError) -> None:
        if not isinstance(error, VmLost):
            error.detail = f"The agent of the source was restarted while the VM moved. {error.detail}"
        await super()._failed(error)
