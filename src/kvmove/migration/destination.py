"""The destination's part of a move, from the manager's word that one will come to the VM here or to nothing.

    expect -> (bring ->) prepare -> sync -> take_over -> TAKEN
    resume, while disks are copied: either agent was restarted, and the source goes on where it was
    abandon, from any step before the commit -> nothing left

`take_over` is the hand-over: the registry's compare-and-swap decides whether this host owns the VM; only then, and only
once CONT_INTENT is on stable storage, the guest is let run. After a restart of the agent `recover` does what is owed
(see the table there). A disk that is not handed over lies in a folder marked partial, which no VM can be started from.

Everything here may be called again by a source that got no answer: a step that is done answers as before.
Deliberately not here: HTTP, and who may call (agent).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from kvmove.errors import Busy, KvmoveError, MoveFailed, NotFound
from kvmove.failpoints import reach
from kvmove.log_context import inherited
from kvmove.memory.channel_relay import DestinationRelay
from kvmove.migration.host_parts import HostParts
from kvmove.migration.incoming_disks import IncomingDisks
from kvmove.migration.journal import Step
from kvmove.migration.memory_channels import memory_channels
from kvmove.migration.move_log import logged_as
from kvmove.migration.move_record import record_committed, record_under_way
from kvmove.model.image import Bases
from kvmove.model.move import MovePlan
from kvmove.model.ownership import Ownership
from kvmove.model.vm import Power
from kvmove.qemu import run_control
from kvmove.qemu.features import find_features
from kvmove.qemu.instance import Instance
from kvmove.qemu.migration import Migration, Status
from kvmove.registry import ownership
from kvmove.registry.settle import swap_until_known
from kvmove.transport.listener import Expected
from kvmove.transport.stream import Stream, StreamLost
from kvmove.wire.frames import FROM_SOURCE
from kvmove.wire.handshake import Hello, StreamRole

log = logging.getLogger(__name__)

LOAD_SECONDS = 20.0
"""The source says that all memory is sent; so long may this QEMU take to have it."""

REGISTRY_PAUSE = 0.2


class IncomingState(StrEnum):
    EXPECTED = "expected"
    BRINGING = "bringing"  # images below the disks are coming
    PREPARED = "prepared"
    TAKEN = "taken"  # this host owns the VM, which runs here, or is paused or off as it was
    CRASHED = "crashed"  # this host owns the VM, which ran here or may have; its QEMU has ended
    RETURNED = "returned"  # this host had won the VM, could not let it run, and gave it back
    INTERRUPTED = "interrupted"  # the agent was restarted, or could not end what it began: `recover` is at it
    DISCARDED = "discarded"


async def pause() -> None:
    """Between two attempts to reach the registry."""
    await asyncio.sleep(REGISTRY_PAUSE)


def incoming_socket(run: Path, move_id: str) -> Path:
    """Where a QEMU that waits for the memory of this move listens."""
    return run / f"{move_id}-in.sock"


OWNED = frozenset({IncomingState.TAKEN, IncomingState.CRASHED})
OVER = OWNED | {IncomingState.RETURNED, IncomingState.DISCARDED}


class IncomingMove:
    """One move into this host. Methods run one at a time (`lock`). What the journal says of it is taken up."""

    def __init__(self, host: HostParts, plan: MovePlan, ticket: bytes) -> None:
        self.plan = plan
        self.state = IncomingState.EXPECTED
        self.since = time.monotonic()
        self.lock = asyncio.Lock()
        self._host = host
        self._ticket = ticket
        self._journal = host.incoming.of(plan.move_id)
        if self._journal.steps:
            self.state = IncomingState(self._journal.steps.get(Step.ENDED, {}).get("state", "interrupted"))
        self._instance: Instance | None = None
        self._migration: Migration | None = None
        self._disks = IncomingDisks(host, plan)
        self._relay: DestinationRelay | None = None
        self.has_frozen = plan.verify and self.state in OWNED

    # What the source asks.

    def status(self) -> dict[str, Any]:
        """For the source and the manager: state, why it cannot go on (if so), and digests once known."""
        failure = self._disks.failure
        if self.state is IncomingState.PREPARED and self._instance is not None:
            failure = failure or self._qemu_failure(self._instance)
        return {
            "state": self.state,
            "failure": failure,
            "applied_bytes": self._disks.applied_bytes,
            "digests": self._disks.digests,
            "frames": [kind.name for kind in FROM_SOURCE],
            "times": self._disks.times(),
            "incarnation": self._disks.incarnation,
        }

    def _qemu_failure(self, instance: Instance) -> str:
        if instance.process.is_alive():
            return ""
        why = self._relay.why() if self._relay is not None else ""
        return f"the destination's QEMU has ended{f', after {why}' if why else ''}"

    async def bring(self, bases: Bases) -> dict[str, Any]:
        """Take the images below the disks, before `prepare`. The answer's `wanted` are the keys (see `bases.Bring`) of
        those to send, in that order; the others are here.

        :raise KvmoveError: it cannot be done; nothing of it is left.
        """
        async with self.lock:
            if self.state is not IncomingState.EXPECTED:
                raise Busy(f"move {self.plan.move_id} is {self.state} here")
            self._journal.write(Step.PREPARED, {"plan": self.plan.model_dump(mode="json")})
            try:
                wanted = await self._disks.bring(bases.bases)
            except BaseException:
                await self._discard()
                raise
            self._take_streams()
            self.state = IncomingState.BRINGING
            return self.status() | {"wanted": wanted}

    def _take_streams(self) -> None:
        self._host.listener.expect(
            self.plan.move_id,
            Expected(self._ticket, self.plan.source.name, self.plan.encrypt, self._accept),
        )

    async def prepare(self) -> dict[str, Any]:
        """Make the disks, start QEMU, take streams.

        :raise KvmoveError: it cannot be done; nothing of it is left.
        """
        async with self.lock:
            if self.state is IncomingState.PREPARED:
                return self.status()
            if self.state not in (IncomingState.EXPECTED, IncomingState.BRINGING):
                raise Busy(f"move {self.plan.move_id} is {self.state} here")
            self._journal.write(Step.PREPARED, {"plan": self.plan.model_dump(mode="json")})
            try:
                await self._disks.make()
                if self.plan.power is Power.OFF:
                    self._host.vms.require_free(self.plan.vm)
                else:
                    await self._start_qemu()
            except BaseException:
                await self._discard()
                raise
            self._take_streams()
            self._journal.note(Step.WAITING, {})
            self.state = IncomingState.PREPARED
            log.info("move %s: ready to take VM %s in", self.plan.move_id, self.plan.vm.name)
            await reach("destination-prepared")
            return self.status()

    async def resume(self, ticket: bytes) -> dict[str, Any]:
        """The source goes on with the copy of the disks: its agent was restarted, or this one. Streams come anew, with
        `ticket`; those of before are dead. A QEMU that has waited all the time proves that the host was not restarted,
        so what was applied to a raw image is there. May be called again.

        :raise Busy: this cannot be gone on with; what is here stays as it is, for `abandon`.
        :raise KvmoveError: it does not work now.
        """
        async with self.lock:
            if self.state is IncomingState.INTERRUPTED:
                await self._reopen()
            elif self.state is IncomingState.PREPARED and self._instance is not None:
                await self._require_no_memory(self._instance)
                await self._disks.take_anew()
            else:
                raise Busy(f"move {self.plan.move_id} is {self.state} here")
            self._ticket = ticket
            self._take_streams()
            self.state = IncomingState.PREPARED
            log.info("move %s: the copy of the disks goes on", self.plan.move_id)
            return self.status()

    async def _reopen(self) -> None:
        """What this agent's forerunner had made ready, as long as nothing but disks has come."""
        if not self._journal.has(Step.WAITING) or self._journal.has(Step.CONT_INTENT):
            raise Busy(f"move {self.plan.move_id} had not come to the copy of its disks here, or was past it")
        instance = await self._host.vms.adopt_incoming(self.plan.vm, self.plan.move_id)
        if instance is None or not instance.process.is_alive():
            raise Busy(f"the QEMU that waited for VM {self.plan.vm.name} has ended")
        self._migration = await self._require_no_memory(instance)
        try:
            await self._disks.reopen()
        except BaseException:
            await self._disks.stop()
            raise
        self._instance = instance
        self._relay = DestinationRelay(self._socket)

    async def _require_no_memory(self, instance: Instance) -> Migration:
        migration = Migration(instance.monitor, await find_features(instance.monitor))
        if (status := (await migration.info()).status) not in (Status.NONE, Status.SETUP):
            raise Busy(f"the memory of VM {self.plan.vm.name} has begun to come: it is {status} here")
        return migration

    async def _start_qemu(self) -> None:
        self._instance = await self._host.vms.start_incoming(self.plan.vm, self.plan.move_id)
        migration = self._migration = Migration(self._instance.monitor, await find_features(self._instance.monitor))
        runs = self.plan.power is Power.RUNNING
        await migration.configure_destination(memory_channels(self.plan), runs_afterwards=runs)
        await migration.incoming(f"unix:{self._socket}")
        self._relay = DestinationRelay(self._socket)

    def _accept(self, hello: Hello, stream: Stream) -> Callable[[], None]:
        """A stream has proven itself; called in its thread."""
        with logged_as(self.plan):
            if hello.role is StreamRole.DISK:
                return inherited(self._disks.accept(hello.number, stream))
            if self._relay is None:
                raise StreamLost("the move is over")
            return inherited(self._relay.accept(hello.number, hello.attempt, stream))

    async def sync(self) -> dict[str, Any]:
        """All that was acknowledged is on stable storage, folder included, and is not written to any more; with
        `verify` the disks are frozen as they are.

        :raise MoveFailed: the storage failed, now or before.
        """
        await self._disks.sync()
        return self.status()

    async def digests(self) -> dict[str, Any]:
        """The digests of the disks as they were at the last `sync`; none of a disk whose copy is not there any more."""
        self.has_frozen = False
        if self.plan.verify:
            await self._disks.find_digests()
        return self.status()

    def drop_frozen(self) -> None:
        """Nobody asks for digests any more."""
        self.has_frozen = False
        self._disks.drop_frozen()

    # The hand-over.

    async def take_over(self) -> dict[str, Any]:
        """The source has yielded: win the VM at the registry, then let it run.

        The answer's `state` is `taken`; `returned` when the VM was won, could not run, and was given back; or
        `crashed` when it was won, may have run, and has ended.

        :raise Busy: the source won an abort, or the VM is not in this move; nothing of it is left here.
        :raise MoveFailed: this QEMU does not have the memory; the VM was not taken over.
        """
        async with self.lock:
            if self.state is not IncomingState.PREPARED:
                return self.status()
            if self._instance is not None:
                migration = self._migration or Migration(
                    self._instance.monitor, await find_features(self._instance.monitor)
                )  # to ask for its features takes 30 ms, and the guest stands still here
                await migration.wait_status({Status.COMPLETED}, timeout=LOAD_SECONDS)
            await reach("destination-loaded")
            won = await self._commit()
            try:
                await self._let_run(self._instance, won)
            except KvmoveError as error:
                log.error("VM %s was won and is not settled yet: %s", self.plan.vm.name, error.detail)
                self.state = IncomingState.INTERRUPTED
        await self.recover()
        return self.status()

    async def _commit(self) -> Ownership:
        wanted = record_committed(self.plan)
        stored = await swap_until_known(self._host.registry, record_under_way(self.plan), wanted, pause)
        if stored != wanted:
            await self._discard()
            raise Busy(f"the source has taken VM {self.plan.vm.name} back: move {self.plan.move_id} was aborted")
        return wanted

    async def _let_run(self, instance: Instance | None, won: Ownership) -> None:
        """Won: let the guest run if it ran, or give it back while it is certain that it never did here."""
        try:
            await reach("destination-committed")
            if instance is not None and not instance.process.is_alive():
                raise MoveFailed("its QEMU ended before the guest ran")
            self._journal.write(Step.CONT_INTENT, {"epoch": won.epoch})
        except (KvmoveError, OSError) as error:
            await self._give_back(won, str(error))
            return
        try:
            await reach("destination-cont-intent")
            if instance is not None and self.plan.power is Power.RUNNING:
                await run_control.cont(instance.monitor)
        except KvmoveError as error:
            if instance is None:
                raise
            await self._after_failed_cont(instance, won, error)
            return
        await self._settle_in(instance, won.epoch)

    async def _after_failed_cont(self, instance: Instance, won: Ownership, error: KvmoveError) -> None:
        """Find out whether the guest runs, as long as it takes: only what surely never ran is given back."""
        while (runs := await self._runs(instance)) is None and instance.process.is_alive():
            log.error("VM %s cannot be let run: %s", self.plan.vm.name, error.detail)
            await pause()
        if runs is None:
            await self._own(won.epoch, IncomingState.CRASHED)
        elif runs:
            await self._settle_in(instance, won.epoch)
        else:
            await self._give_back(won, error.detail)

    @staticmethod
    async def _runs(instance: Instance) -> bool | None:
        """Whether the guest runs; None when its QEMU does not say."""
        with contextlib.suppress(KvmoveError):
            return await run_control.run_state(instance.monitor) == run_control.RUNNING
        return None

    async def _give_back(self, won: Ownership, reason: str) -> None:
        """It never ran here, and never will: that is written, and its QEMU ends, before the source may have it."""
        log.error("VM %s cannot run here and is given back: %s", self.plan.vm.name, reason)
        with contextlib.suppress(OSError):
            self._journal.write(Step.GIVING_BACK, {"epoch": won.epoch})
        await self._host.vms.discard_incoming(self.plan.vm.uuid)
        back = ownership.take_back(won, self.plan.source.name)
        await swap_until_known(self._host.registry, won, back, pause)
        await self._discard(IncomingState.RETURNED)

    async def _settle_in(self, instance: Instance | None, epoch: int) -> None:
        """The guest runs here, or stays as it was: tell the network, and make the VM this host's own."""
        self.state = IncomingState.TAKEN
        await reach("destination-running")
        self._host.listener.forget(self.plan.move_id)
        if instance is not None and self.plan.power is Power.RUNNING:
            with contextlib.suppress(KvmoveError):
                await run_control.announce_self(instance.monitor)
        await self._own(epoch)

    async def _own(self, epoch: int, state: IncomingState = IncomingState.TAKEN) -> None:
        """The VM is this host's, durably. May be done again."""
        self._host.listener.forget(self.plan.move_id)
        await self._disks.commit()
        runs = self.plan.power is not Power.OFF
        await self._host.vms.take_ownership(self.plan.vm, epoch, runs=runs)
        self.state = state
        self.since = time.monotonic()
        self.has_frozen = self.plan.verify
        self._journal.write(Step.ENDED, {"state": state})
        log.info("move %s: VM %s is this host's now, epoch %d", self.plan.move_id, self.plan.vm.name, epoch)
        await self._stop_threads()

    # The undo.

    async def abandon(self) -> dict[str, Any]:
        """The move is given up: end QEMU, remove the disks. Nothing is left when this returns.

        :raise Busy: too late, the VM is this host's.
        """
        async with self.lock:
            if self.state in OWNED:
                raise Busy(f"VM {self.plan.vm.name} is {self._host.name}'s already")
            if self.state not in OVER:
                await self._discard()
            return self.status()

    async def _discard(self, state: IncomingState = IncomingState.DISCARDED) -> None:
        self._host.listener.forget(self.plan.move_id)
        await self._host.vms.discard_incoming(self.plan.vm.uuid)
        await self._stop_threads()
        await self._disks.discard()
        self.state = state
        log.info("move %s: %s; what it had made here is removed", self.plan.move_id, state)
        if self._journal.steps:
            self._journal.write(Step.ENDED, {"state": state})

    @property
    def _socket(self) -> Path:
        """Where the waiting QEMU listens. A QEMU that dies leaves it."""
        return incoming_socket(self._host.run, self.plan.move_id)

    async def _stop_threads(self) -> None:
        self._socket.unlink(missing_ok=True)
        if self._relay is not None:
            self._relay.close()
        await self._disks.stop()
        self._relay = None

    # After a restart, and when the source is silent.

    async def is_over(self) -> bool:
        """Whether the registry says that this move is not under way any more, and was not won by this host.

        :raise Unreachable: the registry does not answer.
        """
        record = await self._host.registry.get(self.plan.vm.uuid)
        return record is None or (record.owner != self._host.name and record.move_id != self.plan.move_id)

    async def recover(self) -> None:
        """Do what is owed after a restart of the agent, or after a failure once the VM was won; nothing otherwise.

            journal       the registry says          then
            any           the move is under way      wait: the source aborts, or an old commit of ours arrives late
            any           the VM is the source's     discard: it was aborted, or given back
            PREPARED      it is this host's          it never ran: run it if its QEMU is there, else give it back
            CONT_INTENT   it is this host's          it may have run: run it if its QEMU is there; never give it back
            GIVING_BACK   it is this host's          it never ran, and that is known: go on giving it back

        Tries as long as it takes; the guest stands still or runs at the source meanwhile. The source may abandon the
        move in between, as it does only when the destination cannot have won it, or never will.
        """
        while not await self._recovered():
            await pause()

    async def _recovered(self) -> bool:
        async with self.lock:
            try:
                if self.state is IncomingState.INTERRUPTED:
                    await self._take_up(await self._host.registry.get(self.plan.vm.uuid))
            except KvmoveError as error:
                log.warning("incoming move %s cannot be taken up yet: %s", self.plan.move_id, error.detail)
            except Exception:
                log.exception("incoming move %s cannot be taken up yet, by a defect of ours", self.plan.move_id)
            return self.state is not IncomingState.INTERRUPTED

    async def _take_up(self, stored: Ownership | None) -> None:
        won = record_committed(self.plan)
        if stored == record_under_way(self.plan):
            return
        if stored != won:
            await self._discard()
        elif self._is_own():
            await self._own(won.epoch)
        else:
            await self._take_up_won(won)

    def _is_own(self) -> bool:
        """Whether the agent died after it had made the VM its own, and before it wrote that the move has ended."""
        try:
            self._host.vms.definition(self.plan.vm.uuid)
        except NotFound:
            return False
        return True

    async def _take_up_won(self, won: Ownership) -> None:
        if self._journal.has(Step.GIVING_BACK):
            await self._give_back(won, "it was being given back")
            return
        if self.plan.power is Power.OFF:
            await self._own(won.epoch)
            return
        instance = await self._host.vms.adopt_incoming(self.plan.vm, self.plan.move_id)
        if instance is not None and not instance.process.is_alive():
            instance = None
        may_have_run = self._journal.has(Step.CONT_INTENT)
        if instance is None and may_have_run:
            await self._own(won.epoch, IncomingState.CRASHED)
        elif instance is None:
            await self._give_back(won, "its QEMU is gone")
        else:
            self._journal.write(Step.CONT_INTENT, {"epoch": won.epoch})
            if self.plan.power is Power.RUNNING:
                await self._let_run_again(instance)
            await self._own(won.epoch)

    @staticmethod
    async def _let_run_again(instance: Instance) -> None:
        if await run_control.run_state(instance.monitor) != run_control.RUNNING:
            await run_control.cont(instance.monitor)
        with contextlib.suppress(KvmoveError):
            await run_control.announce_self(instance.monitor)
