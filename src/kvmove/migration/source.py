"""The source's part of a move, top to bottom: one method a phase, each step beside its undo.

    prepare         begin at the registry        undo: abort at the registry
                    destination makes ready      undo: destination abandons
                    streams
    copy disks      mirrors on, drain, copy      undo: mirrors off (the guest goes on)
    copy memory     QEMU's rounds                undo: cancel (a paused guest goes on)
    switch over     see `switchover`             from YIELDED on the registry decides, nothing is undone
    clean up        source's QEMU and disks go

The undos run last first, so the guest runs again before anything slow is undone. Whatever happens before YIELDED, the
VM runs on at the source and the destination is clean, or finds out by itself from the registry.

Deliberately not here: HTTP, tasks, and what a restarted agent owes (recovery).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import ParamSpec, TypeVar

from kvmove.client.agent import AgentClient
from kvmove.disk.offload import Offload
from kvmove.errors import Cancelled, KvmoveError, MoveFailed, NotConverged, Unreachable
from kvmove.failpoints import reach
from kvmove.memory.convergence import Convergence, GiveUp, RaiseDowntimeLimit
from kvmove.memory.relay_process import RelayOrder, RelayProcess
from kvmove.migration.clean_up import give_away, stay
from kvmove.migration.disk_mirrors import DiskMirrors, open_sources, quietly
from kvmove.migration.host_parts import HostParts
from kvmove.migration.journal import Step
from kvmove.migration.memory_channels import channel_routes, memory_channels
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.move_record import record_before, record_under_way
from kvmove.migration.switchover import (
    REGISTRY_SECONDS,
    Decision,
    SwitchoverParts,
    Timing,
    hand_over,
    pause,
    send_rest,
)
from kvmove.migration.watch import MoveWatch, VmLost, vm_lost
from kvmove.model.move import MovePlan, Phase, Route
from kvmove.model.ownership import Ownership
from kvmove.mover.disk_move import DiskMove
from kvmove.pki.contexts import client_context
from kvmove.pki.identity import Identity, Role
from kvmove.qemu import run_control
from kvmove.qemu.features import find_features
from kvmove.qemu.migration import ENDED, Migration, MigrationInfo, MigrationParameters, Status, give_up
from kvmove.registry import ownership
from kvmove.registry.settle import swap_until_known
from kvmove.transport.dial import Dialer
from kvmove.transport.stream import Stream
from kvmove.wire.handshake import StreamRole

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

STREAM_SECONDS = 10.0
LOOK_SECONDS = 0.1

UNLIMITED = 100 * 10**9
"""Bytes/s for QEMU's own limit: streams and NICs are the limit."""


class SourceMove:
    """One move out of this host. `run` it once; the board tells how far it is; `cancel` ends it before YIELDED."""

    def __init__(self, host: HostParts, plan: MovePlan, ticket: bytes, board: MoveBoard) -> None:
        self.plan = plan
        self.board = board
        self._host = host
        self._journal = host.outgoing.of(plan.move_id)
        self._destination = AgentClient(plan.destination, host.pki)
        self._instance = host.vms.instance(plan.vm.uuid)
        context = client_context(host.pki) if plan.encrypt else None
        self._dialer = Dialer(plan.move_id, ticket, context, Identity(Role.AGENT, plan.destination.name).dns_name)
        self._record = record_before(plan)
        self._watch = MoveWatch(plan, self._instance, self._destination)
        self._disks: DiskMove
        self._relay: RelayProcess
        self._memory_socket = host.run / f"{plan.move_id}-out.sock"
        self._mirrors: DiskMirrors
        self._yielded = False
        self._info: MigrationInfo | None = None

    def cancel(self) -> bool:
        """Ask for the end of the move; False when it is too late for it."""
        if not self._yielded:
            self._watch.cancelled.set()
        return not self._yielded

    async def run(self) -> None:
        """The whole move. How it ended is on the board and in the journal; failures are not raised."""
        try:
            decision = await self._decided()
            if decision.record.owner == self._host.name:
                await self._stay(decision.record)
            else:
                await give_away(
                    self._host, self.plan, self._destination, self.board, self._info, guest_ended=decision.guest_ended
                )
        except KvmoveError as error:
            await self._failed(error)
        except asyncio.CancelledError:
            if not self._yielded:  # undone; after YIELDED the next start of the agent takes the move up
                self.board.failing(MoveFailed("The agent of the source was stopped while the VM moved."))
                self.board.ended(Phase.ABORTED)
            raise
        finally:
            if self.board.status().outcome is not None:
                self._journal.write(Step.ENDED, {"status": self.board.status().model_dump(mode="json")})
            self._watch.close()
            await self._destination.close()

    async def _decided(self) -> Decision:
        """:raise KvmoveError: the move failed before YIELDED and was undone."""
        try:
            async with AsyncExitStack() as release:
                release.callback(self.board.stop_watching)
                decision = await self._until_decided(release)
                self.board.stop_watching()
            await asyncio.to_thread(self._relay.wait_last_news)
            return decision
        except KvmoveError:
            raise
        except Exception as error:
            log.exception("move %s failed", self.plan.move_id)
            raise MoveFailed(f"The move failed by a defect of ours: {error!r}.") from error

    async def _stay(self, record: Ownership) -> None:
        """:raise KvmoveError: always: the move failed."""
        await stay(self._host, self.plan, self._instance, record)
        await self._tell_destination()
        raise MoveFailed(
            f"The destination could not take over VM {self.plan.vm.name}: {self.board.message.rstrip('.')}.",
            hint="Look at the destination's agent, then move again.",
        )

    async def _failed(self, error: KvmoveError) -> None:
        """The VM is the source's: end the move as failed, or as the VM's own end."""
        if not self._instance.process.is_alive():
            error = vm_lost(self.plan)
        self.board.failing(error, instead=isinstance(error, VmLost))
        await self._see_that_it_runs(error)
        self.board.ended(Phase.LOST if isinstance(error, VmLost) else Phase.ABORTED)

    async def _see_that_it_runs(self, error: KvmoveError) -> None:
        """What the task says of the VM must be true: look, and let it go on if an undo could not."""
        if isinstance(error, VmLost):
            return
        if self._watch.guest_is_off:
            error.vm_state = f"off on {self._host.name}"
            return
        try:
            if await run_control.run_state(self._instance.monitor) != run_control.RUNNING:
                await run_control.cont(self._instance.monitor)
        except KvmoveError as trouble:
            error.vm_state = f"paused or hung on {self._host.name}: {trouble.detail}"
            error.hint = f"Look at VM {self.plan.vm.name} on {self._host.name}; nothing runs anywhere else."

    async def _until_decided(self, release: AsyncExitStack) -> Decision:
        """Up to the answer who owns the VM. An error before YIELDED has been undone when it is raised."""
        async with AsyncExitStack() as undo:
            try:
                return await self._phases(undo, release)
            except KvmoveError as error:
                self.board.failing(error)
                raise

    async def _phases(self, undo: AsyncExitStack, release: AsyncExitStack) -> Decision:
        await self._watch.during(self._prepare(undo, release))
        self._start_relay(release)
        if self.plan.disks:
            self._enter(Phase.COPYING_DISKS)
            await self._watch.during(self._copy_disks(undo, release))
        self._enter(Phase.COPYING_MEMORY)
        migration = await self._watch.during(self._copy_memory(undo))
        self._enter(Phase.SWITCHING_OVER)
        parts = SwitchoverParts(
            self.plan, self._host, self._destination, self._instance, migration, self._disks, self._mirrors.jobs,
            self._record, self._watch.memory_is_sent,
        )  # fmt: skip
        timing = Timing()
        self._info = await self._watch.during(send_rest(parts, timing))
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

    def _enter(self, phase: Phase) -> None:
        self.board.enter(phase)
        self._journal.note(Step.REACHED, {"phase": phase})

    # Preparing.

    async def _prepare(self, undo: AsyncExitStack, release: AsyncExitStack) -> None:
        self._journal.write(Step.BEGAN, {"plan": self.plan.model_dump(mode="json")})
        begun = record_under_way(self.plan)
        undo.push_async_callback(quietly, self._abort_ownership, begun)
        await self._host.registry.swap(self._record, begun)
        self._record = begun
        undo.push_async_callback(self._tell_destination)
        await self._destination.prepare_incoming(self.plan.move_id, {})
        self._watch.destination_is_ready = True
        self._disks = self._disk_move(release)
        release.push_async_callback(asyncio.to_thread, self._disks.stop)
        self._mirrors = DiskMirrors(self._host, self.plan, self._instance, self._disks)
        self._watch.disks = self._disks
        self.board.watch_disks(self._disks)
        if self.plan.disks:
            await asyncio.to_thread(self._disks.start, STREAM_SECONDS)
        await reach("source-prepared")

    def _disk_move(self, release: AsyncExitStack) -> DiskMove:
        """To the destination's agent over the migration NICs, or straight into the disks that it has made."""
        sources = open_sources(self._host, self.plan, release)
        if not self.plan.over_storage:
            return DiskMove(sources, self.plan.routes, self._dial_disk, self._host.mover)
        offloads = []
        for source, disk in zip(sources, self.plan.disks, strict=True):
            store = self._host.datastores[disk.reached_as or disk.destination_datastore]
            target = store.open_target(self.plan.vm.uuid, self.plan.new_disk(disk))
            release.callback(target.close)
            offloads.append(Offload(source, target))
        return DiskMove.within_host(offloads, self._host.mover)

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

    async def _copy_disks(self, undo: AsyncExitStack, release: AsyncExitStack) -> None:
        await self._mirrors.start(undo, release)
        await reach("source-mirroring")
        self._disks.start_copy()
        while not await asyncio.to_thread(self._disks.wait_copied, STREAM_SECONDS):
            log.debug("move %s: the disks are not copied yet", self.plan.move_id)

    # Memory.

    async def _copy_memory(self, undo: AsyncExitStack) -> Migration:
        """QEMU's rounds until it stands at pre-switchover: the guest is paused then."""
        await self._wait_for_registry()
        migration = Migration(self._instance.monitor, await find_features(self._instance.monitor))
        relay = self._relay
        await asyncio.to_thread(relay.wait_ready)
        self.board.watch_memory(relay)
        self._watch.relay = relay
        convergence = Convergence(self.plan.max_downtime_ms)
        limits = MigrationParameters(max_bandwidth=UNLIMITED, downtime_limit_ms=convergence.first_limit_ms)
        await migration.configure_source(memory_channels(self.plan), limits)
        undo.push_async_callback(quietly, self._cancel_migration, migration)
        undo.callback(relay.close)  # first: then it takes all that QEMU sends, and QEMU heeds the cancel
        await migration.migrate(f"unix:{self._memory_socket}")
        await reach("source-pre-copy")
        while True:
            info = await migration.next_info(LOOK_SECONDS)
            self.board.memory(info)
            if info.status is Status.PRE_SWITCHOVER:
                await reach("source-pre-switchover")
                return migration
            if info.status in ENDED:
                raise MoveFailed(f"The memory's transfer ended as {info.status}: {relay.why() or info.error}.")
            await self._steer(migration, convergence, info)

    async def _steer(self, migration: Migration, convergence: Convergence, info: MigrationInfo) -> None:
        decision = convergence.observe(info.rounds, info.throttle)
        if isinstance(decision, GiveUp):
            raise NotConverged(
                f"Memory does not converge: {decision.reason}.",
                hint="Allow a longer pause with --max-downtime, or move when the guest is less busy.",
            )
        if isinstance(decision, RaiseDowntimeLimit):
            await migration.set_parameters(MigrationParameters(downtime_limit_ms=decision.milliseconds))

    def _start_relay(self, release: AsyncExitStack) -> None:
        """Before the copy of the disks: it takes a moment to start."""
        order = RelayOrder(
            path=self._memory_socket,
            routes=channel_routes(self.plan),
            move_id=self.plan.move_id,
            ticket=self._dialer.ticket.hex(),
            pki=self._host.pki if self.plan.encrypt else None,
            server_name=self._dialer.server_name,
        )
        self._relay = RelayProcess(order)
        release.callback(self._relay.close)

    async def _wait_for_registry(self) -> None:
        """The switchover needs the registry: wait for it while the guest runs, not while it stands still."""
        while True:
            try:
                async with asyncio.timeout(REGISTRY_SECONDS):
                    await self._host.registry.get(self.plan.vm.uuid)
                self.board.message = ""
                return
            except (Unreachable, TimeoutError) as error:
                self.board.message = f"waiting for the registry before the guest is paused: {error}"
                await pause()

    async def _cancel_migration(self, migration: Migration) -> None:
        """Undo of `migrate`: QEMU lets a paused guest go on, but for one whose memory was all sent: that is let go on
        here. The destination cannot have let it run: it was never told to take over."""
        status = await give_up(migration, self._instance.oob)
        if status is Status.COMPLETED:
            await run_control.cont(self._instance.monitor)
        await run_control.announce_self(self._instance.monitor)
