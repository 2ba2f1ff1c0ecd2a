"""No guest is paused for a switchover that would have to wait, for the registry or for data of its disks: the move
waits, and the guest runs.

    registry, disks           memory                          the task says
    answers, in step          is sent; QEMU may switch over
    answers, copied again     QEMU is held back               waiting for the disks before the guest is paused, or
                                                              who has paused their copy
    is silent                 QEMU is held back               waiting for the registry before the guest is paused
    silent for WAIT_SECONDS   the move is undone              why

A guest whose vCPUs QEMU slows at that moment stays slowed as long as it is held: then the wait for the registry is
SLOWED_WAIT_SECONDS, and that for disks SLOWED_DISKS_SECONDS. Else disks are waited for as long as it takes: their copy
either comes to its end or fails, and then the move does.

The registry is asked all the time while memory is sent. It may fall silent in the moment between its last answer and
the pause, and a guest that writes nothing cannot be held back: then the guest stands still for at most
`switchover.REGISTRY_SECONDS`, and the move is undone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from kvmove.errors import KvmoveError, MoveFailed, Unreachable
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.switchover import REGISTRY_SECONDS, pause
from kvmove.qemu.migration import HELD_THROTTLE, Migration, MigrationInfo
from kvmove.registry.interface import Registry

ASK_SECONDS = 0.5
FRESH_SECONDS = 2.0
"""An answer is good for so long; a question that takes longer holds the move back."""

WAIT_SECONDS = 300.0
"""So long may the registry be silent before the move is undone, the guest running all the time."""


SLOWED_WAIT_SECONDS = 10.0
SLOWED_DISKS_SECONDS = 60.0
"""Longer: their copy goes on meanwhile, and a move that is undone has to copy all of them again."""


class PauseGate:
    """Of one move. `in_step` tells whether no region of a disk has to be copied (again); `clock` gives seconds and
    never goes back."""

    def __init__(
        self,
        registry: Registry,
        vm: UUID,
        board: MoveBoard,
        in_step: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._vm = vm
        self._board = board
        self._in_step = in_step
        self._clock = clock
        self._asking: asyncio.Task[str] | None = None
        self._asked = self._heard = clock()
        self._why = ""
        self._closed: float | None = None
        self._slowed: float | None = None
        self._held_at: int | None = None
        self._held_rounds = 0

    async def wait(self) -> None:
        """Before QEMU begins: return once the registry answers and the disks are in step.

        :raise Unreachable: the registry has not within WAIT_SECONDS. :raise KvmoveError: the disks' copy failed.
        """
        while (why := await self._ask()) or not self._in_step():
            if why:
                self._close(why)
            else:
                self._wait_for_disks()
            await pause()
        self._heard = self._asked = self._clock()
        self._open()

    async def holds(self, migration: Migration, info: MigrationInfo) -> bool:
        """While QEMU sends: whether it is held back now. To be called again and again; it does not wait.

        :raise Unreachable: the registry has not answered for WAIT_SECONDS, or SLOWED_WAIT_SECONDS of a slowed guest.
        :raise MoveFailed: disks were not in step for SLOWED_DISKS_SECONDS of a slowed guest.
        :raise KvmoveError: the disks' copy failed.
        """
        self._look()
        silent = bool(self._why) or self._clock() - self._heard > FRESH_SECONDS
        if not silent and self._in_step():
            await self._let_go(migration, info)
            return False
        if self._held_at is None:
            self._held_at = info.rounds
            await migration.hold_back()
        is_slowed = info.throttle > HELD_THROTTLE
        if silent:
            most = SLOWED_WAIT_SECONDS if is_slowed else WAIT_SECONDS
            self._close(self._why or "it takes too long to answer", most)
        else:
            self._wait_for_disks()
            self._spare_slowed(is_slowed=is_slowed)
        return True

    def without_hold(self, info: MigrationInfo) -> MigrationInfo:
        """`info` without the rounds that went by while it was held back: they say nothing of the guest."""
        return replace(info, rounds=info.rounds - self._held_rounds)

    async def _let_go(self, migration: Migration, info: MigrationInfo) -> None:
        if self._held_at is None:
            return
        self._held_rounds += info.rounds - self._held_at
        self._held_at = None
        await migration.let_go()
        self._open()

    def _look(self) -> None:
        """Take in an answer; ask anew when it is time."""
        now = self._clock()
        if self._asking is not None and self._asking.done():
            self._why, self._asking = self._asking.result(), None
            self._heard = self._heard if self._why else now
        if self._asking is None and now - self._asked >= ASK_SECONDS:
            self._asked = now
            self._asking = asyncio.create_task(self._ask(), name=f"pause gate {self._vm}")

    async def _ask(self) -> str:
        """Why the registry has no answer; nothing when it has."""
        try:
            async with asyncio.timeout(REGISTRY_SECONDS):
                await self._registry.get(self._vm)
        except TimeoutError:
            return f"no answer within {REGISTRY_SECONDS:.0f} s"
        except KvmoveError as error:
            return error.detail
        return ""

    def _close(self, why: str, most: float = WAIT_SECONDS) -> None:
        now = self._clock()
        self._closed = self._closed or now
        self._board.message = f"waiting for the registry before the guest is paused: {why}"
        if now - self._closed > most:
            raise Unreachable(
                f"The registry has not answered for {most:.0f} s, and the VM cannot be handed over without it: {why}",
                hint="See whether the manager and its etcd run; then move again. The guest was not paused.",
            )

    def _wait_for_disks(self) -> None:
        self._closed = None
        who = self._board.paused_by
        what = f"the copy is paused by {who}" if who else "parts of them are copied again"
        self._board.message = f"waiting for the disks before the guest is paused: {what}"

    def _spare_slowed(self, *, is_slowed: bool) -> None:
        now = self._clock()
        self._slowed = self._slowed or now if is_slowed else None
        if self._slowed is not None and now - self._slowed > SLOWED_DISKS_SECONDS:
            raise MoveFailed(
                f"Parts of the disks were copied again for more than {SLOWED_DISKS_SECONDS:.0f} s, all the while the "
                "guest's vCPUs were held back.",
                hint="Look at the migration networks; then move again, with --max-slowdown 0 to slow no vCPU.",
            )

    def _open(self) -> None:
        self._closed = self._slowed = None
        self._board.message = ""
