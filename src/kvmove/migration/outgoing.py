"""What every move to another host does at its source, whether there is a guest to be paused (source) or not (off_move).

    prepare         begin at the registry        undo: abort at the registry
                    destination makes ready      undo: destination abandons
                    streams
    hand over       the word is written; the registry decides; what is not this host's any more is given away

Whatever happens before YIELDED, the VM stays at the source and the destination is clean, or finds out by itself from
the registry. Deliberately not here: HTTP, tasks, and what a restarted agent owes (recovery).
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Any

from kvmove.client.agent import AgentClient
from kvmove.disk.datastore import Datastore
from kvmove.disk.interface import SourceDisk
from kvmove.disk.offload import Offload
from kvmove.errors import Busy, Cancelled, CheckFailed, KvmoveError, MoveFailed, Unreachable
from kvmove.failpoints import reach
from kvmove.migration.bases import NewBases, SourceBases, copy_cold
from kvmove.migration.clean_up import give_away, stay
from kvmove.migration.disk_images import SourceImages, TargetImages, quietly
from kvmove.migration.disk_mirrors import moving_disks
from kvmove.migration.host_parts import HostParts
from kvmove.migration.journal import Step
from kvmove.migration.move_board import REGISTRY_RETRY_SECONDS, MoveBoard
from kvmove.migration.move_record import record_before, record_under_way
from kvmove.migration.procedure import Procedure
from kvmove.migration.switchover import Decision, SwitchoverParts, Timing, hand_over
from kvmove.migration.watch import SILENCE_SECONDS, MoveWatch, VmLost, vm_lost
from kvmove.model.image import Bases
from kvmove.model.move import DiskPlacement, MovePlan, Phase, Route
from kvmove.model.ownership import Ownership
from kvmove.model.vm import DiskFormat
from kvmove.mover.disk_move import DiskMove
from kvmove.mover.move_terms import MovingDisk
from kvmove.pki.contexts import LiveContext, client_context
from kvmove.pki.identity import Identity, Role
from kvmove.qemu.instance import Instance
from kvmove.qemu.migration import MigrationInfo
from kvmove.registry import ownership
from kvmove.registry.settle import swap_until_known
from kvmove.transport.dial import Dialer
from kvmove.transport.stream import Stream
from kvmove.wire.frames import FrameKind
from kvmove.wire.handshake import StreamRole

log = logging.getLogger(__name__)

STREAM_SECONDS = 10.0
ANNOUNCE_SECONDS = 30.0
TOUCH_LOOK_SECONDS = 0.1


class OutgoingMove(Procedure):
    """One move out of this host; `instance` is the VM's QEMU, None for one that is off."""

    def __init__(
        self, host: HostParts, plan: MovePlan, ticket: bytes, board: MoveBoard, instance: Instance | None
    ) -> None:
        self._destination = AgentClient(plan.destination, host.pki)
        super().__init__(host, plan, board, MoveWatch(plan, instance, self._destination))
        self._watch.heard = board.heard
        context = LiveContext(host.pki, client_context) if plan.encrypt else None
        self._dialer = Dialer(plan.move_id, ticket, context, Identity(Role.AGENT, plan.destination.name).dns_name)
        self._record = record_before(plan)
        self._info: MigrationInfo | None = None
        self._is_back = False
        for code in plan.accepted:
            board.note(f"{code} was accepted: the operator let the move go on although the check found it")
        self._disks: DiskMove
        self._targets: TargetImages | None = None
        self._incarnation = ""

    async def _carry_out(self) -> None:
        decision = await self._unless_undone(self._phases)
        await self._streams_ended()
        if decision.record.owner == self._host.name:
            await self._stay(decision.record)
        else:
            await give_away(
                self._host, self.plan, self._destination, self.board, self._info, guest_ended=decision.guest_ended
            )

    @abstractmethod
    async def _phases(self, undo: AsyncExitStack, release: AsyncExitStack) -> Decision:
        """Up to the answer who owns the VM."""

    async def _streams_ended(self) -> None:
        """All that the streams have to tell for the report has been told when this returns."""

    async def _stay(self, record: Ownership) -> None:
        """:raise KvmoveError: always: the move failed."""
        self._is_back = True
        await stay(self._host, self.plan, self._watch.instance, record)
        await self._tell_destination()
        raise MoveFailed(
            f"The destination could not take over VM {self.plan.vm.name}: {self.board.message.rstrip('.')}.",
            hint="Look at the destination's agent, then move again.",
        )

    async def _failed(self, error: KvmoveError) -> None:
        """The VM is the source's: end the move as failed, or as the VM's own end.

        :raise KvmoveError: it may be the destination's, by a defect of ours: the move stays unfinished, and is taken up
            by what its journal says. To let the guest go on here could let it run twice.
        """
        if self._yielded and not self._is_back:
            raise error
        if not self._watch.vm_lives():
            error = vm_lost(self.plan)
        self.board.failing(error, instead=isinstance(error, VmLost))
        await self._see_that_it_goes_on(error)
        self.board.ended(Phase.LOST if isinstance(error, VmLost) else Phase.ABORTED)

    async def _see_that_it_goes_on(self, error: KvmoveError) -> None:
        """What the task says of the VM must be true."""

    async def _close(self) -> None:
        await super()._close()
        await self._destination.close()

    # Preparing.

    async def _prepare(self, undo: AsyncExitStack, release: AsyncExitStack) -> None:
        await self._begin()
        begun = record_under_way(self.plan)
        undo.push_async_callback(quietly, self._abort_ownership, begun)
        await self._announce(begun)
        self._record = begun
        undo.push_async_callback(self._tell_destination)
        await self._bring_bases()
        answer = await self._destination.prepare_incoming(self.plan.move_id, {})
        self.steering.copy_terms.compression.begin(understood=knows_compressed(answer))
        self._incarnation = answer["incarnation"]
        await self._connect(undo, release)
        await reach("source-prepared")

    async def _connect(self, undo: AsyncExitStack, release: AsyncExitStack) -> None:
        """The destination is ready: open the streams to it."""
        self._watch.destination_is_ready = True
        self._disks = await self._disk_move(undo, release)
        release.push_async_callback(asyncio.to_thread, self._disks.stop)
        undo.push_async_callback(asyncio.to_thread, self._disks.stop)  # before the disks are anybody else's
        self._watch.disks = self._disks
        self.board.watch_disks(self._disks)
        self.steering.steer_disks(self._disks)
        if self.plan.disks:
            await asyncio.to_thread(self._disks.start, STREAM_SECONDS)

    async def _bring_bases(self) -> None:
        """Copy the images below the disks, those that the destination lacks. Undone with `prepare`."""
        source = SourceBases(self._host, self.plan)
        await source.find()
        if not source.bases:
            return
        answer = await self._destination.bring_incoming(self.plan.move_id, Bases(bases=source.bases))
        self.steering.copy_terms.compression.begin(understood=knows_compressed(answer))
        new = NewBases(self.plan, source.bases, self._reached)
        wanted = [it for it in new.all() if it.key in answer["wanted"]]
        with ExitStack() as release:
            disks = source.open(wanted, release)
            if self.plan.over_storage:
                targets = new.open(wanted, release)
                offloads = [Offload(disk.source, target) for disk, target in zip(disks, targets, strict=True)]
                move = DiskMove.within_host(disks, offloads, self._host.mover, self.steering.copy_terms)
            else:
                move = DiskMove(disks, self.plan.routes, self._dial_disk, self._host.mover, self.steering.copy_terms)
            self.steering.steer_disks(move)
            await copy_cold(move, self.board)

    async def _begin(self) -> None:
        """:raise CheckFailed: the VM is not as it was when the move was planned; nothing was changed."""
        try:
            await require_power(self._host, self.plan)
            self._journal.write(Step.BEGAN, {"plan": self.plan.model_dump(mode="json")})
        except BaseException:
            self._host.vms.end_move(self.plan.vm.uuid, self.plan.epoch)
            raise

    async def _announce(self, begun: Ownership) -> None:
        """The registry is to know of the move. One that is silent for a moment, say while the manager is started again,
        is no reason to give up what has just begun.

        :raise Unreachable: it is for longer. :raise Busy: its record is another than the plan's.
        """
        deadline = time.monotonic() + ANNOUNCE_SECONDS

        async def pause() -> None:
            if time.monotonic() > deadline:
                raise Unreachable("the registry does not answer, so the move cannot begin", hint="is the manager up?")
            self.board.message = "waiting for the registry, to note there that the VM moves"
            await asyncio.sleep(REGISTRY_RETRY_SECONDS)

        stored = await swap_until_known(self._host.registry, self._record, begun, pause)
        self.board.message = ""
        if stored != begun:
            raise Busy(f"the registry's record of VM {self.plan.vm.name} is not what the move was planned with")

    async def _disk_move(self, undo: AsyncExitStack, release: AsyncExitStack) -> DiskMove:
        """To the destination's agent over the migration NICs, or straight into the disks that it has made."""
        sources = SourceImages(self._host, self.plan, self._watch.instance)
        release.push_async_callback(sources.close)
        await sources.open()
        disks, terms = self._moving(sources.disks), self.steering.copy_terms
        if not self.plan.over_storage:
            return DiskMove(disks, self.plan.routes, self._dial_disk, self._host.mover, terms)
        targets = self._targets = TargetImages(self._host, self.plan, self._reached)
        release.push_async_callback(targets.close)
        undo.push_async_callback(quietly, targets.give_up)  # before the disks are anybody else's
        await targets.open()
        offloads = [Offload(source, target) for source, target in zip(sources.disks, targets.disks, strict=True)]
        return DiskMove.within_host(disks, offloads, self._host.mover, terms)

    def _moving(self, sources: Sequence[SourceDisk]) -> list[MovingDisk]:
        return moving_disks(self.plan, sources)

    def _reached(self, placement: DiskPlacement) -> Datastore:
        return self._host.datastores[placement.reached_as or placement.destination_datastore]

    def _dial_disk(self, route: Route, number: int) -> Stream:
        return self._dialer.open(route, StreamRole.DISK, number)

    async def _abort_ownership(self, begun: Ownership) -> None:
        """Undo of `begin`: the VM stays, under a new epoch."""
        aborted = ownership.abort(begun, self.plan.move_id)
        stored = await swap_until_known(self._host.registry, begun, aborted, self.board.waiting_for_registry)
        self.board.message = ""
        epoch = stored.epoch if stored is not None else self.plan.epoch
        self._host.vms.end_move(self.plan.vm.uuid, epoch)

    async def _tell_destination(self) -> None:
        """Undo of `prepare`. A destination that cannot be told sees it at the registry."""
        try:
            await self._destination.abandon_incoming(self.plan.move_id, {})
        except KvmoveError as error:
            log.warning("move %s: the destination was not told: %s", self.plan.move_id, error.detail)

    # Disks.

    async def _copy_bulk(self) -> None:
        """Until both sides are equal, but for what the guest writes from now on. A destination out of reach is waited
        for: nothing is lost by it but time."""
        self._be_patient()
        self._disks.start_copy()
        await self._keep_in_step()
        while not await asyncio.to_thread(self._disks.wait_copied, STREAM_SECONDS):
            log.debug("move %s: the disks are not copied yet", self.plan.move_id)

    async def _keep_in_step(self) -> None:
        """What a guest that writes meanwhile asks for; until there is no more to do but to wait."""

    def _be_patient(self) -> None:
        self._watch.patience = self.board.outage.give_up = self._host.mover.give_up
        self.board.outage.silence = self._watch.silence
        self._watch.on_restart = self._go_on_after_restart

    async def _go_on_after_restart(self) -> None:
        """The destination's agent is another process: what it had applied to images that it wrote itself is there, what
        a storage daemon of it had written may be lost. First that is known here, then streams may come.

        :raise KvmoveError: it cannot go on.
        """
        for number in unsafe_disks(self.plan):
            await asyncio.to_thread(self._disks.discarded, number, (0, self.plan.disks[number].size))
        answer = await self._destination.resume_incoming(self.plan.move_id, self._dialer.ticket.hex())
        self._incarnation = answer["incarnation"]
        lost = ", ".join(self.plan.disks[number].name for number in unsafe_disks(self.plan))
        again = (
            f"; {lost} is copied again from its beginning: what was written to a qcow2 image may be lost"
            if lost
            else ""
        )
        self.board.note(f"the agent of {self.plan.destination.name} was restarted; the copy goes on{again}")

    async def _wait_in_touch(self) -> None:
        """End the copy's patience once the destination answers, streams are open, and all is copied."""
        while True:
            if self._watch.is_in_touch() and self._disks.is_copied():
                break
            await asyncio.sleep(TOUCH_LOOK_SECONDS)
        self._watch.patience, self.board.outage.give_up = SILENCE_SECONDS, 0.0
        self._watch.on_restart = None

    # The hand-over.

    def _switchover_parts(self) -> SwitchoverParts:
        return SwitchoverParts(self.plan, self._host, self._destination, self._disks, self._record, self._targets)

    async def _hand_over(self, undo: AsyncExitStack, parts: SwitchoverParts, timing: Timing) -> Decision:
        """:raise Cancelled: before the word was given."""
        if self._watch.cancelled.is_set():
            raise Cancelled("The operator cancelled the move.")
        self._yielded = True
        undo.pop_all()  # from here nothing is undone: the destination may let the guest run
        self.board.yielded()
        self._disks.end()
        decision = await hand_over(parts, timing, self.board.in_doubt, unwritten=self._yield())
        self.board.decided(by_destination=decision.record.owner != self._host.name, parts=timing.parts)
        return decision

    def _yield(self) -> str:
        """Write YIELDED; why it could not be, if so."""
        try:
            self._journal.write(Step.YIELDED, {"epoch": self._record.epoch})
        except OSError as error:
            return f"the source's journal cannot be written: {error}"
        return ""


def knows_compressed(answer: Mapping[str, Any]) -> bool:
    """Whether the destination, which answered so, takes DATA_ZSTD frames; an older one does not say."""
    known = answer.get("frames")
    return isinstance(known, list) and FrameKind.DATA_ZSTD.name in known


def unsafe_disks(plan: MovePlan) -> list[int]:
    """Those that may lack what the destination's agent has acknowledged, once that agent has died: others' daemons
    write them, and die with it."""
    if plan.over_storage:
        return []
    disks = enumerate(plan.disks)
    return [number for number, disk in disks if plan.new_disk(disk).format is not DiskFormat.RAW]


async def require_power(host: HostParts, plan: MovePlan) -> None:
    """:raise CheckFailed: the VM is not running, paused or off as it was when the move was planned."""
    power = await host.vms.power(plan.vm.uuid)
    if power is not plan.power:
        raise CheckFailed(
            f"VM {plan.vm.name} is {power} now; it was {plan.power} when the move was planned", hint="Move it again."
        )
