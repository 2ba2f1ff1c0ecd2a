"""The moves that this host takes part in: those out of it, and those into it.

Each move out runs as a task of its own to its end; no request of the manager that breaks off ends it. After a restart
`recover` takes up what the journal says is unfinished, before anything new is accepted for those VMs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from kvmove.agent.tickets import ticket_of
from kvmove.disk.datastore import Datastore
from kvmove.errors import Busy, InvalidInput, KvmoveError, NotAllowed, NotFound
from kvmove.log_context import entered_phase
from kvmove.migration.copy_record import resumable
from kvmove.migration.destination import IncomingMove, IncomingState
from kvmove.migration.host_parts import HostParts
from kvmove.migration.journal import MoveJournal, Step
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.move_log import logged_as
from kvmove.migration.off_move import OffMove
from kvmove.migration.procedure import Procedure
from kvmove.migration.recovery import MoveRecovery
from kvmove.migration.resumed_move import ResumedMove
from kvmove.migration.source import SourceMove
from kvmove.migration.steering import Steering
from kvmove.migration.storage_move import StorageMove
from kvmove.migration.storage_recovery import StorageRecovery
from kvmove.model.move import MoveKind, MovePlan, MoveStatus, Phase
from kvmove.model.vm import Power

log = logging.getLogger(__name__)

EVENT_SECONDS = 0.2
EXPECT_SECONDS = 3600.0
"""A move that was announced and not prepared within this is forgotten."""

HOUSEKEEPING_SECONDS = 2.0

FROZEN_SECONDS = 3600.0
"""So long is a disk's copy kept for a source that wants its digest and does not come."""


class Moves:
    """All moves of one host."""

    def __init__(self, host: HostParts) -> None:
        self._host = host
        self._outgoing: dict[str, Procedure] = {}
        self._boards: dict[str, MoveBoard] = {}
        self._incoming: dict[str, IncomingMove] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)  # inherits whose move this is, for the log
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Out of this host.

    def start(self, plan: MovePlan, ticket: str) -> MoveStatus:
        """Begin a move; its progress is asked for by its id. Asking twice for the same move begins it once.

        :raise Busy: the VM moves already, or the agent ends. :raise CheckFailed: it has no QEMU here, and the plan says
            that it has.
        """
        if plan.move_id in self._boards:
            return self._boards[plan.move_id].status()
        if self._host.outgoing.of(plan.move_id).has(Step.ENDED):
            return self.status(plan.move_id)
        if plan.source.name != self._host.name:
            raise InvalidInput(f"host {self._host.name} is not the source of move {plan.move_id}")
        if self._is_closed:
            raise Busy(f"The agent of {self._host.name} ends.", hint="Try again once it has been started again.")
        board = MoveBoard(plan)
        move: Procedure
        if plan.kind is MoveKind.STORAGE:
            move = StorageMove(self._host, plan, board)
        elif plan.power is Power.OFF:
            move = OffMove(self._host, plan, ticket_of(ticket), board)
        else:
            move = SourceMove(self._host, plan, ticket_of(ticket), board)
        self._host.vms.begin_move(plan.vm.uuid, plan.move_id, plan.epoch)
        self._boards[plan.move_id] = board
        self._outgoing[plan.move_id] = move
        with logged_as(plan):
            log.info("VM %s goes to %s", plan.vm.name, plan.destination.name)
            entered_phase(Phase.PREPARING)
            self._spawn(self._run(move), f"move-{plan.move_id}")
        return board.status()

    async def _run(self, move: Procedure) -> None:
        try:
            await move.run()
        except KvmoveError as error:  # after its word: what its journal says decides, as after a restart
            log.error("move %s is taken up again: %s", move.plan.move_id, error.detail)
            self._take_up(self._host.outgoing.of(move.plan.move_id))
        except Exception:  # of what nobody foresaw the journal decides just so
            log.exception("move %s failed by a defect of ours, and is taken up again", move.plan.move_id)
            self._take_up(self._host.outgoing.of(move.plan.move_id))
        finally:
            self._outgoing.pop(move.plan.move_id, None)
            for forgotten in self._host.outgoing.forget_old():
                self._boards.pop(forgotten, None)

    def cancel(self, move_id: str) -> MoveStatus:
        """Ask a move to end; it is undone in the background.

        :raise Busy: too late. :raise NotFound: no such move.
        """
        status = self.status(move_id)
        move = self._outgoing.get(move_id)
        if move is None or not move.cancel():
            raise Busy(
                f"Move {move_id} cannot be cancelled any more: VM {status.plan.vm.name} is {status.vm_state}.",
                hint="When it has ended, move the VM back.",
            )
        return status

    def steering(self, move_id: str) -> Steering:
        """What a move out of this host can be steered by, while it runs.

        :raise Busy: it has ended. :raise NotFound: no such move.
        """
        self.status(move_id)
        move = self._outgoing.get(move_id)
        if move is None:
            raise Busy(f"Move {move_id} does not run any more.")
        return move.steering

    def status(self, move_id: str) -> MoveStatus:
        """How a move out of this host is, or how it ended, also after a restart.

        :raise NotFound: this host knows of no such move.
        """
        board = self._boards.get(move_id)
        if board is not None:
            return board.status()
        journal = self._host.outgoing.of(move_id)
        if not journal.has(Step.ENDED):
            raise NotFound(f"Host {self._host.name} knows of no move {move_id}.")
        return _ended(journal)

    def all(self) -> list[MoveStatus]:
        """All that this host remembers, oldest first."""
        ended = [journal for journal in self._host.outgoing.all() if journal.has(Step.ENDED)]
        past = [status for status in map(_ended, ended) if status.move_id not in self._boards]
        return past + [board.status() for board in self._boards.values()]

    async def events(self, move_id: str) -> AsyncIterator[MoveStatus]:
        """The move's status now and whenever it changed, until it has ended.

        :raise NotFound: this host knows of no such move, or does not any more.
        """
        last: MoveStatus | None = None
        while True:
            status = self.status(move_id)
            if status != last:
                yield status
            if status.outcome is not None:
                return
            last = status
            if (board := self._boards.get(move_id)) is not None:  # else it was forgotten since
                await board.wait_over(EVENT_SECONDS)

    # Into this host.

    def expect(self, plan: MovePlan, ticket: str) -> None:
        """The manager says that a move will come.

        :raise InvalidInput: it is not for this host.
        """
        if plan.destination.name != self._host.name:
            raise InvalidInput(f"host {self._host.name} is not the destination of move {plan.move_id}")
        for forgotten in self._host.incoming.forget_old():
            self._incoming.pop(forgotten, None)
        if plan.move_id not in self._incoming:
            self._incoming[plan.move_id] = IncomingMove(self._host, plan, ticket_of(ticket))
            with logged_as(plan):
                log.info("VM %s will come from %s", plan.vm.name, plan.source.name)

    def incoming(self, move_id: str, caller: str | None) -> IncomingMove:
        """A move into this host; `caller` is the agent that asks, None for the manager.

        :raise NotFound: none is known. :raise NotAllowed: the caller is not its source.
        """
        move = self._incoming.get(move_id)
        if move is None:
            raise NotFound(f"Host {self._host.name} expects no move {move_id}.")
        if caller is not None and move.plan.source.name != caller:
            raise NotAllowed(f"host {caller} is not the source of move {move_id}")
        return move

    # After a restart, and always.

    def recover(self) -> None:
        """Take up every unfinished move. The VMs of this host must have been adopted before."""
        latest = {journal.plan().vm.uuid: journal for journal in self._host.outgoing.all() if journal.has(Step.BEGAN)}
        for journal in self._host.outgoing.unfinished():
            if journal.path == latest[journal.plan().vm.uuid].path:
                if not self._resume(journal):
                    self._take_up(journal)
            else:  # a later move of the VM has begun: this one had ended, and could not write so
                log.error("move %s has ended without a word on how", journal.path.stem)
        for journal in self._host.incoming.all():
            if journal.has(Step.PREPARED):
                self._recover_incoming(journal)

    def _resume(self, journal: MoveJournal) -> bool:
        """Go on with a copy of disks where it was, if that can be."""
        checkpoint = resumable(journal)
        if checkpoint is None:
            return False
        plan = journal.plan()
        try:
            move = ResumedMove(self._host, plan, checkpoint)
            self._host.vms.begin_move(plan.vm.uuid, plan.move_id, plan.epoch)
        except KvmoveError as error:
            log.warning("the copy of VM %s cannot go on: %s", plan.vm.name, error.detail)
            return False
        self._boards[plan.move_id], self._outgoing[plan.move_id] = move.board, move
        with logged_as(plan):
            log.warning("going on with move %s of VM %s", plan.move_id, plan.vm.name)
            self._spawn(self._run(move), f"move-{plan.move_id}")
        return True

    def _take_up(self, journal: MoveJournal) -> None:
        is_storage = journal.plan().kind is MoveKind.STORAGE
        recovery = StorageRecovery(self._host, journal) if is_storage else MoveRecovery(self._host, journal)
        plan = recovery.plan
        self._boards[plan.move_id] = recovery.board
        with contextlib.suppress(KvmoveError):
            self._host.vms.begin_move(plan.vm.uuid, plan.move_id, plan.epoch)
        with logged_as(plan):
            log.warning("taking up move %s of VM %s", plan.move_id, plan.vm.name)
            self._spawn(recovery.run(), f"recover-{plan.move_id}")

    def _recover_incoming(self, journal: MoveJournal) -> None:
        """Also those that have ended are known still: a source that was down asks what became of its VM."""
        plan = journal.plan()
        move = self._incoming[plan.move_id] = IncomingMove(self._host, plan, b"")
        if move.state is IncomingState.INTERRUPTED:
            with logged_as(plan):
                log.warning("taking up incoming move %s of VM %s", plan.move_id, plan.vm.name)
                self._spawn(move.recover(), f"recover-{plan.move_id}")

    async def keep_house(self) -> None:
        """For ever: forget what was announced and never came, discard what its source has given up, delete old disks
        that were put aside long enough, and what of this host's own moves a datastore would not let go of."""
        while True:
            for move in list(self._incoming.values()):
                with logged_as(move.plan):
                    await self._look_after(move)
            for store in self._host.datastores.values():
                with contextlib.suppress(KvmoveError):
                    await asyncio.to_thread(store.purge, self._host.keep_source)
                    await asyncio.to_thread(self._discard_undone, store)
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

    def _discard_undone(self, store: Datastore) -> None:
        """What a storage move of this host had to leave behind, because its new datastore was gone when it ended."""
        for move_id in store.unfinished_moves():
            journal = self._host.outgoing.of(move_id)
            if journal.has(Step.ENDED) and journal.plan().kind is MoveKind.STORAGE:
                log.warning("move %s was undone: discarding what it left in datastore %s", move_id, store.name)
                store.discard_move(move_id)

    async def _look_after(self, move: IncomingMove) -> None:
        with logged_as(move.plan):
            await self._see_to(move)

    async def _see_to(self, move: IncomingMove) -> None:
        move_id = move.plan.move_id
        try:
            waited = time.monotonic() - move.since
            if move.state is IncomingState.EXPECTED and waited > EXPECT_SECONDS and not move.lock.locked():
                del self._incoming[move_id]
            elif (
                move.state in (IncomingState.BRINGING, IncomingState.PREPARED)
                and not move.lock.locked()
                and await move.is_over()
            ):
                log.warning("move %s was given up by its source: discarding what it brought", move_id)
                await move.abandon()
            elif move.has_frozen and time.monotonic() - move.since > FROZEN_SECONDS:
                await asyncio.to_thread(move.drop_frozen)
        except KvmoveError as error:
            log.info("move %s cannot be looked after now: %s", move_id, error.detail)

    async def close(self) -> None:
        """The agent ends, and begins no move any more. A copy of disks is left to the next agent, what is before its
        word is undone, the rest is left to its journal."""
        self._is_closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _ended(journal: MoveJournal) -> MoveStatus:
    return MoveStatus.model_validate(journal.steps[Step.ENDED]["status"])
