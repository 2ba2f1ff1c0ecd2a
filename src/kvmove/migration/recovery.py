"""What a source owes when its agent starts again and finds a move unfinished in its journal.

    journal    then
    BEGAN      the move is undone: memory's transfer cancelled, mirrors taken off, the guest runs, abort at the registry
    YIELDED    the registry and the destination decide, as in an undisturbed switchover (`switchover.decide`)

The guest comes first: it is let run before the registry or the destination is asked, where that is safe, which it is
up to YIELDED. The streams and mirrors of the old agent died with it; QEMU's guest writes went on at the source.

The destination's half is `IncomingMove.recover`.
"""

from __future__ import annotations

import logging
from pathlib import Path

from kvmove.client.agent import AgentClient
from kvmove.errors import KvmoveError, MoveFailed
from kvmove.migration.checkpoint import CheckpointFile
from kvmove.migration.clean_up import give_away, stay
from kvmove.migration.disk_images import quietly
from kvmove.migration.host_parts import HostParts
from kvmove.migration.journal import MoveJournal, Step
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.move_record import record_under_way
from kvmove.migration.phases import Course, HandOver
from kvmove.migration.switchover import Decision, decide, pause
from kvmove.model.move import MovePlan, Phase
from kvmove.model.vm import Power
from kvmove.qemu import run_control
from kvmove.qemu.block_jobs import MirrorJob, MirrorSpec
from kvmove.qemu.disk_export import DiskExports
from kvmove.qemu.features import find_features
from kvmove.qemu.instance import Instance
from kvmove.qemu.migration import Migration, Status, give_up
from kvmove.qemu.write_records import WriteRecords
from kvmove.registry import ownership
from kvmove.registry.settle import read_until_known, swap_until_known

log = logging.getLogger(__name__)

TELL_ATTEMPTS = 20


class MoveRecovery:
    """One unfinished move out of this host; `run` it once, then the board says how it ended."""

    def __init__(self, host: HostParts, journal: MoveJournal) -> None:
        self.plan = journal.plan()
        self._host = host
        self._journal = journal
        yielded = journal.has(Step.YIELDED)
        course = Course(Phase.SWITCHING_OVER, HandOver.YIELDED) if yielded else Course(Phase.ABORTING)
        self.board = MoveBoard(self.plan, course)
        self.board.message = "the source's agent was restarted"
        self._moving = record_under_way(self.plan)
        self._decision: Decision | None = None

    async def run(self) -> None:
        """Until the move has ended, however long the registry, or a QEMU that does not answer, takes."""
        destination = AgentClient(self.plan.destination, self._host.pki)
        try:
            while self.board.status().outcome is None:
                await self._try(destination)
        finally:
            await destination.close()
        self._journal.write(Step.ENDED, {"status": self.board.status().model_dump(mode="json")})

    async def _try(self, destination: AgentClient) -> None:
        """All that is done here may be done again."""
        try:
            if self._journal.has(Step.YIELDED):
                await self._decide(destination)
            else:
                await self._undo(destination)
        except KvmoveError as error:
            log.error("move %s cannot be taken up yet: %s", self.plan.move_id, error.detail)
            await self._wait(error.detail)
        except Exception as error:
            log.exception("move %s cannot be taken up yet", self.plan.move_id)
            await self._wait(f"a defect of ours: {error!r}")

    async def _wait(self, why: str) -> None:
        self.board.message = f"the source's agent cannot end this move yet: {why}"
        await pause()

    def _instance(self) -> Instance | None:
        """:raise Unreachable: QEMU lives and does not answer yet: what became of the VM is not known."""
        return self._host.vms.surviving(self.plan.vm.uuid)

    def _ended(self, instance: Instance | None) -> Phase:
        """How a move ends whose VM stays here."""
        lost = instance is None and self.plan.power is not Power.OFF
        return Phase.LOST if lost else Phase.ABORTED

    # Before YIELDED.

    async def _undo(self, destination: AgentClient) -> None:
        CheckpointFile(self._journal.path).remove()
        instance = self._instance()
        if instance is not None:
            await undo_in_qemu(instance, self.plan)
        aborted = ownership.abort(self._moving, self.plan.move_id)
        record = await read_until_known(self._host.registry, self._moving, self.board.waiting_for_registry)
        if record == self._moving:
            wait = self.board.waiting_for_registry
            record = await swap_until_known(self._host.registry, self._moving, aborted, wait)
        self._host.vms.end_move(self.plan.vm.uuid, record.epoch if record is not None else self.plan.epoch)
        await self._tell(destination)
        self.board.failing(
            MoveFailed(
                "The agent of the source was restarted while the VM moved; the move was undone.",
                hint=f"Move again: kvmove move {self.plan.vm.name} {self.plan.destination.name}",
                step=str(self._journal.steps.get(Step.REACHED, {}).get("phase", Phase.PREPARING)),
            )
        )
        self.board.ended(self._ended(instance))

    async def _tell(self, destination: AgentClient) -> None:
        """A destination that cannot be told in time finds out from the registry."""
        for _ in range(TELL_ATTEMPTS):
            try:
                await destination.abandon_incoming(self.plan.move_id, {})
                return
            except KvmoveError as error:
                log.info("move %s: the destination was not told yet: %s", self.plan.move_id, error.detail)
                await pause()

    # After it.

    async def _find_out(self, destination: AgentClient) -> Decision:
        decision = await decide(self.plan, self._host, destination, self.board.in_doubt)
        self.board.decided(by_destination=decision.record.owner != self._host.name, parts={})
        return decision

    async def _decide(self, destination: AgentClient) -> None:
        decision = self._decision = self._decision or await self._find_out(destination)
        record = decision.record
        if record.owner != self._host.name:
            await give_away(self._host, self.plan, destination, self.board, guest_ended=decision.guest_ended)
            return
        instance = self._instance()
        await stay(self._host, self.plan, instance, record)
        await self._tell(destination)
        self.board.failing(
            MoveFailed(
                "The agent of the source was restarted in the switchover, and the VM went on at the source.",
                hint=f"Move again: kvmove move {self.plan.vm.name} {self.plan.destination.name}",
                step=Phase.SWITCHING_OVER,
            )
        )
        self.board.ended(self._ended(instance))


async def undo_in_qemu(instance: Instance, plan: MovePlan) -> None:
    """Take a move's traces off a source's QEMU and let its guest run. What fails is logged; the rest is done.

    Only before the destination may have been told to take over.
    """
    try:
        migration = Migration(instance.monitor, await find_features(instance.monitor))
        status = await give_up(migration, instance.oob)
        is_still = await run_control.run_state(instance.monitor) != run_control.RUNNING
        if plan.power is Power.RUNNING and (status is Status.COMPLETED or is_still):
            await run_control.cont(instance.monitor)
            await run_control.announce_self(instance.monitor)
    except KvmoveError as error:
        log.error("VM %s could not be let run: %s", plan.vm.name, error.detail)
    await abandon_mirrors(instance, plan)
    nodes = {disk.name: instance.disk_nodes[disk.name] for disk in plan.disks}
    await quietly(WriteRecords(instance.monitor, nodes).remove)


async def abandon_mirrors(instance: Instance, plan: MovePlan) -> None:
    """Take the mirrors and exports that a dead agent has left off a QEMU. What fails is logged."""
    await quietly(DiskExports(instance.monitor, Path("/nonexistent")).end)
    records = WriteRecords(instance.monitor, {disk.name: instance.disk_nodes[disk.name] for disk in plan.disks})
    await quietly(records.serve_no_more)
    for number, disk in enumerate(plan.disks):
        spec = MirrorSpec(instance.disk_nodes[disk.name], disk.size, Path("/nonexistent"), disk.name, number)
        try:
            await MirrorJob(instance.monitor, instance.oob, spec).abandon(lambda: None)
        except KvmoveError as error:
            log.warning("a mirror of VM %s could not be taken off: %s", plan.vm.name, error.detail)
