"""The frame around the phases of every move: run once, undone if it fails before the word is given, told to the board.

    the phases      each step pushes its undo; the undos run last first, so the guest runs again before anything slow
    YIELDED         the word is given: from here nothing is undone
    the end         on the board and in the journal, however it came

Invariant: a failure before YIELDED is told only once everything was undone. Deliberately not here: any phase.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

from kvmove.errors import KvmoveError, MoveFailed
from kvmove.log_context import entered_phase
from kvmove.migration.host_parts import HostParts
from kvmove.migration.journal import Step
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.steering import Steering
from kvmove.migration.watch import MoveWatch
from kvmove.model.move import MovePlan, Phase
from kvmove.mover.disk_move import DiskMove

log = logging.getLogger(__name__)

T = TypeVar("T")

COPY_LOOK_SECONDS = 10.0
WRITE_AGAIN_SECONDS = 1.0
STAND_SECONDS = 0.1


class Procedure(ABC):
    """One move of this host. `run` it once; the board tells how far it is; `cancel` ends it before YIELDED."""

    def __init__(self, host: HostParts, plan: MovePlan, board: MoveBoard, watch: MoveWatch) -> None:
        self.plan = plan
        self.board = board
        self._host = host
        self._journal = host.outgoing.of(plan.move_id)
        self._watch = watch
        self.steering = Steering(plan, board)
        self._yielded = False
        self._is_left = False

    def cancel(self) -> bool:
        """Ask for the end of the move; False when it is too late for it."""
        if not self._yielded:
            self._watch.cancelled.set()
        return not self._yielded

    async def run(self) -> None:
        """The whole move. How it ended is on the board and in the journal; failures are not raised."""
        try:
            await self._carry_out()
        except KvmoveError as error:
            await self._failed(error)
        except asyncio.CancelledError:
            if not (self._yielded or self._is_left):  # undone; else the next start of the agent takes the move up
                self.board.failing(MoveFailed("The agent of the source was stopped while the VM moved."))
                self.board.ended(Phase.ABORTED)
            raise
        finally:
            await self._close()
            if self.board.status().outcome is not None:
                await self._write_end()

    async def _write_end(self) -> None:
        """However long the journal cannot be written: an end that is not in it would be undone one day."""
        while True:
            try:
                self._journal.write(Step.ENDED, {"status": self.board.status().model_dump(mode="json")})
                return
            except OSError as error:
                log.error("the end of move %s cannot be written: %s", self.plan.move_id, error)
                await asyncio.sleep(WRITE_AGAIN_SECONDS)

    @abstractmethod
    async def _carry_out(self) -> None:
        """The move, to its end on the board.

        :raise KvmoveError: it failed before YIELDED and was undone, or the VM came back; see `_failed`.
        """

    @abstractmethod
    async def _failed(self, error: KvmoveError) -> None:
        """The VM is where it was, as far as it lives: say so, and end the move."""

    async def _close(self) -> None:
        self._watch.close()

    async def _unless_undone(self, phases: Callable[[AsyncExitStack, AsyncExitStack], Awaitable[T]]) -> T:
        """Go through `phases(undo, release)`. What is on `release` is done in any case, after the undos.

        :raise KvmoveError: they failed and were undone. :raise CancelledError: they were undone, or left.
        """
        try:
            async with AsyncExitStack() as release:
                release.callback(self.board.stop_watching)
                async with AsyncExitStack() as undo:
                    try:
                        return await phases(undo, release)
                    except KvmoveError as error:
                        self.board.failing(error)
                        raise
                    except asyncio.CancelledError:
                        self._is_left = await self._may_be_left()
                        if self._is_left:
                            log.info("move %s is left to the next agent of this host", self.plan.move_id)
                            undo.pop_all()
                        raise
        except KvmoveError:
            raise
        except Exception as error:
            log.exception("move %s failed", self.plan.move_id)
            raise MoveFailed(f"The move failed by a defect of ours: {error!r}.") from error

    async def _may_be_left(self) -> bool:
        """The agent ends: whether its next one goes on from here, so that nothing has to be undone."""
        return False

    async def _wait_for_word(self, disks: DiskMove | None) -> None:
        """Stand in step until the move may switch over; what has to be copied again meanwhile is.

        :raise KvmoveError: the disks failed.
        """
        while True:
            if (disks is None or disks.is_copied()) and self.steering.may_go_on():
                return
            await asyncio.sleep(STAND_SECONDS)

    def _enter(self, phase: Phase) -> None:
        entered_phase(phase)
        self.board.enter(phase)
        self._journal.note(Step.REACHED, {"phase": phase})
