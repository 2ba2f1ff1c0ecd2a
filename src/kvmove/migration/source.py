"""The source's part of a move of a VM that has a QEMU, top to bottom: one method a phase, each step beside its undo.

    prepare         see `outgoing`
    copy disks      mirrors on, drain, copy;     undo: mirrors off (the guest goes on)
                    mirrors write-blocking before the end
                    in step: wait for the word, if it is so asked for
    copy memory     QEMU's rounds                undo: cancel (a guest that ran goes on)
                    held while the registry is silent or disks are behind: `pause_gate`
    switch over     see `switchover`             from YIELDED on the registry decides, nothing is undone
    clean up        source's QEMU and disks go

A VM that was found paused goes the same way and stays paused throughout, on either side: nothing here lets it run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from contextlib import AsyncExitStack
from dataclasses import replace

from kvmove.errors import KvmoveError, MoveFailed, NotConverged
from kvmove.failpoints import reach
from kvmove.memory.convergence import Convergence, GiveUp, RaiseDowntimeLimit, Reading
from kvmove.memory.relay_process import RelayOrder, RelayProcess
from kvmove.memory.slowed_guest import MOST_SECONDS, SlowedInVain
from kvmove.migration.checkpoint import Checkpoint
from kvmove.migration.copy_record import CopyRecord, resumable
from kvmove.migration.disk_images import quietly
from kvmove.migration.disk_mirrors import DiskMirrors
from kvmove.migration.host_parts import HostParts
from kvmove.migration.memory_channels import channel_routes, memory_channels
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.outgoing import STREAM_SECONDS, OutgoingMove
from kvmove.migration.pause_gate import PauseGate
from kvmove.migration.progress import Speed
from kvmove.migration.switchover import MEMORY_SECONDS, Decision, LiveParts, Timing, send_rest
from kvmove.migration.watch import VmLost
from kvmove.model.move import MovePlan, Phase
from kvmove.model.vm import Power
from kvmove.mover.disk_move import REGION_SIZE
from kvmove.qemu import run_control
from kvmove.qemu.block_jobs import CopyMode
from kvmove.qemu.features import find_features
from kvmove.qemu.migration import ENDED, Migration, MigrationInfo, MigrationParameters, Status, give_up
from kvmove.units import format_size

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1

SHARE_SECONDS = 0.5
"""How often a cap is divided between disks and memory, and the memory's speed is taken."""

REST_FACTOR = 3
"""What is left of memory at the switchover may take so much longer than the pause that was planned for it."""

FIRST_SLOWDOWN = 20
"""Percent: QEMU holds vCPUs back so much first, if it may (its own default)."""

UNLIMITED = 100 * 10**9
"""Bytes/s for QEMU's own limit: streams and NICs are the limit."""


class SourceMove(OutgoingMove):
    """See the file's head."""

    def __init__(self, host: HostParts, plan: MovePlan, ticket: bytes, board: MoveBoard) -> None:
        self._instance = host.vms.instance(plan.vm.uuid)
        super().__init__(host, plan, ticket, board, self._instance)
        self._runs = plan.power is Power.RUNNING
        self._relay: RelayProcess
        self._migration: Migration | None = None
        self._memory_socket = host.run / f"{plan.move_id}-out.sock"
        self._mirrors: DiskMirrors
        self._copy_record = CopyRecord(plan, self._instance, host.outgoing.of(plan.move_id).path, host.run)
        self._convergence = Convergence(plan.max_downtime_ms, plan.policy, plan.max_slowdown)
        self._memory_speed = Speed()
        self._slowed = SlowedInVain()
        self._shared_at = 0.0
        self._operators_limit_ms = plan.max_downtime_ms

    async def _phases(self, undo: AsyncExitStack, release: AsyncExitStack) -> Decision:
        await self._watch.during(self._prepare(undo, release))
        self._start_relay(release)
        self._mirrors = DiskMirrors(self._host, self.plan, self._instance, self._disks)
        if self.plan.disks:
            if self.board.course.phase is not Phase.COPYING_DISKS:  # as a move that was taken up is
                self._enter(Phase.COPYING_DISKS)
            await self._watch.during(self._copy_disks(undo, release))
        await self._watch.during(self._wait_for_word(self._disks if self.plan.disks else None))
        await self._watch.during(self._wait_in_touch())
        if self._can_be_resumed:
            await self._copy_record.end()
        self._enter(Phase.COPYING_MEMORY)
        migration = self._migration = await self._watch.during(self._copy_memory(undo))
        self.steering.is_over()
        self._enter(Phase.SWITCHING_OVER)
        parts = self._switchover_parts()
        live = LiveParts(
            self._instance, migration, self._mirrors.jobs, self._watch.memory_is_sent,
            MEMORY_SECONDS + REST_FACTOR * self._convergence.limit_ms / 1000,
        )  # fmt: skip
        timing = Timing()
        self._info = await self._watch.during(send_rest(parts, live, timing))
        return await self._hand_over(undo, parts, timing)

    async def _streams_ended(self) -> None:
        """QEMU says `completed` a moment before it knows how long the pause was (migration/migration.c,
        migration_calculate_complete): it is asked once more, now that nobody waits for it."""
        await asyncio.to_thread(self._relay.wait_last_news)
        if self._migration is not None:
            with contextlib.suppress(KvmoveError):  # its QEMU may have ended since
                self._info = await self._migration.info()

    async def _see_that_it_goes_on(self, error: KvmoveError) -> None:
        """Look, and let a guest that ran go on if an undo could not."""
        if isinstance(error, VmLost):
            return
        if self._watch.guest_is_off:
            error.vm_state = f"off on {self._host.name}"
            return
        try:
            if self._runs and await run_control.run_state(self._instance.monitor) != run_control.RUNNING:
                await run_control.cont(self._instance.monitor)
        except KvmoveError as trouble:
            error.vm_state = f"paused or hung on {self._host.name}: {trouble.detail}"
            error.hint = f"Look at VM {self.plan.vm.name} on {self._host.name}; nothing runs anywhere else."

    # Disks.

    @property
    def _can_be_resumed(self) -> bool:
        """Whether the next agent of this host could go on with the copy: it could not where this one's own daemons
        write the images."""
        return bool(self.plan.disks) and not self.plan.over_storage

    async def _may_be_left(self) -> bool:
        """See `Procedure`. What the guest writes without its mirrors is in QEMU's records."""
        await self._copy_record.keep_no_more()
        return resumable(self._journal) is not None

    async def _copy_disks(self, undo: AsyncExitStack, release: AsyncExitStack) -> None:
        if self._can_be_resumed:
            undo.push_async_callback(quietly, self._copy_record.end)
            await self._copy_record.begin()
        await self._start_copy(undo, release)

    async def _start_copy(self, undo: AsyncExitStack, release: AsyncExitStack) -> None:
        mode = CopyMode.BACKGROUND if self._can_be_resumed else CopyMode.WRITE_BLOCKING  # it takes a record to change
        await self._mirrors.start(mode, undo, release)
        await self._keep_record(undo)
        await reach("source-mirroring")
        await self._copy_bulk()

    async def _keep_record(self, undo: AsyncExitStack) -> None:
        """Before anything else is undone, the record is gone."""
        if self._can_be_resumed:
            undo.push_async_callback(quietly, self._copy_record.end)
            self._copy_record.keep(self._checkpoint)

    def _checkpoint(self) -> Checkpoint:
        """How far the copy is, from any thread. The incarnation is taken first: what a new one lacks is taken back
        before it is known here."""
        place = self._copy_record.generation, self._incarnation
        return Checkpoint.of(self._disks.at_rest(), REGION_SIZE, place, self.steering.said)

    async def _keep_in_step(self) -> None:
        """Let the guest's writes wait for their mirrors once that is of use."""
        if not self._can_be_resumed:
            return
        while not (why := await asyncio.to_thread(self._disks.wait_to_block, STREAM_SECONDS)):
            log.debug("move %s: the mirrors are in the background", self.plan.move_id)
        size = await self._mirrors.block(self._copy_record)
        self.board.note(f"the guest's writes wait for their mirrors from now on: {why}")
        log.info("move %s: mirrors are write-blocking, %s copied again: %s", self.plan.move_id, format_size(size), why)

    # Memory.

    async def _copy_memory(self, undo: AsyncExitStack) -> Migration:
        """QEMU's rounds until it stands at pre-switchover: the guest is paused then."""
        gate = PauseGate(self._host.registry, self.plan.vm.uuid, self.board, self._disks.is_copied)
        await gate.wait()
        migration = Migration(self._instance.monitor, await find_features(self._instance.monitor))
        relay = self._relay
        await asyncio.to_thread(relay.wait_ready)
        self.board.watch_memory(relay)
        self._watch.relay = relay
        self._operators_limit_ms = self.steering.max_downtime_ms
        self._convergence.allow(self._operators_limit_ms)
        await self._configure(migration)
        undo.push_async_callback(quietly, self._cancel_migration, migration)
        undo.callback(relay.close)  # first: then it takes all that QEMU sends, and QEMU heeds the cancel
        self.steering.steer_memory(relay)
        await migration.migrate(f"unix:{self._memory_socket}")
        await reach("source-pre-copy")
        self._shared_at = time.monotonic()
        while True:
            info = await migration.next_info(LOOK_SECONDS)
            self.board.memory(info)
            if info.status is Status.PRE_SWITCHOVER:
                await reach("source-pre-switchover")
                return migration
            if info.status in ENDED:
                raise MoveFailed(f"The memory's transfer ended as {info.status}: {relay.why() or info.error}.")
            self.steering.slowed(info.throttle)
            if await gate.holds(migration, info):
                self._memory_speed = Speed()  # held back, it sends next to nothing, which says nothing of the wire
            else:
                await self._steer(migration, gate.without_hold(info))

    async def _configure(self, migration: Migration) -> None:
        """Bandwidth is the relay's to limit, in bytes: QEMU 7.2 with multifd sends 512 KiB at a time, ten times a
        second at least."""
        slowdown = self._convergence.max_slowdown
        limits = MigrationParameters(max_bandwidth=UNLIMITED, downtime_limit_ms=self._convergence.limit_ms)
        if slowdown:
            throttle = {"throttle_initial": min(FIRST_SLOWDOWN, slowdown), "throttle_max": slowdown}
            limits = replace(limits, **throttle)
        await migration.configure_source(memory_channels(self.plan), limits, may_slow_guest=slowdown > 0)

    async def _steer(self, migration: Migration, info: MigrationInfo) -> None:
        now = time.monotonic()
        if now - self._shared_at >= SHARE_SECONDS:
            self.steering.share(now - self._shared_at)
            self._shared_at = now
        if self._slowed.look(now, info.ram_transferred, self.steering.throttle) > MOST_SECONDS:
            raise MoveFailed(
                f"None of the memory got through for more than {MOST_SECONDS:.0f} s, all the while the guest's vCPUs "
                "were held back.",
                hint="Look at the migration networks; then move again, with --max-slowdown 0 to slow no vCPU.",
            )
        if self.steering.is_paused and self.steering.throttle:
            self.steering.end_pause("QEMU has begun to hold vCPUs back, and would do so as long as the pause lasts")
        if self.steering.is_paused:
            self._memory_speed = Speed()  # what is seen before it sends again says nothing
            return
        self._memory_speed.update(now, info.ram_transferred)
        if self.steering.max_downtime_ms != self._operators_limit_ms:
            await self._allow(migration, self.steering.max_downtime_ms)
        await self._help(migration, info)

    async def _help(self, migration: Migration, info: MigrationInfo) -> None:
        sent_rate = int(self._memory_speed.per_second)
        decision = self._convergence.observe(
            Reading(info.rounds, info.throttle, info.dirty_rate, sent_rate, info.ram_remaining)
        )
        self.board.remark = self._convergence.remark
        if isinstance(decision, GiveUp):
            raise NotConverged(
                f"Memory will not converge: {decision.reason}.",
                hint="Allow a longer pause with --max-downtime, another --policy, or move when the guest is less busy.",
            )
        if isinstance(decision, RaiseDowntimeLimit):
            await migration.set_parameters(MigrationParameters(downtime_limit_ms=decision.milliseconds))
            self.board.note(f"downtime limit {decision.milliseconds} ms: {decision.reason}")

    async def _allow(self, migration: Migration, max_downtime_ms: int) -> None:
        """The operator changed the limit."""
        self._operators_limit_ms = max_downtime_ms
        self._convergence.allow(max_downtime_ms)
        await migration.set_parameters(MigrationParameters(downtime_limit_ms=self._convergence.limit_ms))

    def _start_relay(self, release: AsyncExitStack) -> None:
        """Before the copy of the disks: it takes a moment to start."""
        order = RelayOrder(
            path=self._memory_socket,
            routes=channel_routes(self.plan),
            move_id=self.plan.move_id,
            ticket=self._dialer.ticket.hex(),
            pki=self._host.pki if self.plan.encrypt else None,
            server_name=self._dialer.server_name,
            give_up=self._host.mover.give_up,
        )
        self._relay = RelayProcess(order)
        release.callback(self._relay.close)

    async def _cancel_migration(self, migration: Migration) -> None:
        """Undo of `migrate`: QEMU lets a paused guest go on, but for one whose memory was all sent: that is let go on
        here. The destination cannot have let it run: it was never told to take over."""
        status = await give_up(migration, self._instance.oob)
        if not self._runs:
            return
        if status is Status.COMPLETED:
            await run_control.cont(self._instance.monitor)
        await run_control.announce_self(self._instance.monitor)
