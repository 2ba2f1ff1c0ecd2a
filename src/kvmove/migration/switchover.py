"""The switchover: from the paused guest at the source to the running one at the destination, or back.

    drain       nothing of the disks is on its way any more (guest paused, its writes all mirrored)
    sync        the destination has the disks on stable storage; meanwhile the mirrors end, each without error
    memory      QEMU sends the rest of memory and the devices; the source is `postmigrate`
    hand-over   YIELDED is on stable storage, the destination takes over: the registry decides, the guest runs

Up to the hand-over a failure is raised and the caller undoes. From YIELDED on nothing is guessed: `decide` asks the
destination and the registry until it is known who owns the VM, for ever if need be. The source's paused QEMU stays
until the destination's answer is `running`.

Everything in here is downtime: nothing is done that could be done before or after.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kvmove.client.agent import AgentClient
from kvmove.errors import Busy, KvmoveError, MoveFailed, Unreachable
from kvmove.failpoints import reach
from kvmove.migration.disk_images import TargetImages
from kvmove.migration.host_parts import HostParts
from kvmove.migration.move_record import record_committed, record_under_way
from kvmove.model.move import MovePlan
from kvmove.model.ownership import Ownership
from kvmove.mover.disk_move import DiskMove
from kvmove.qemu import run_control
from kvmove.qemu.block_jobs import MirrorJob
from kvmove.qemu.instance import Instance
from kvmove.qemu.migration import Migration, MigrationInfo, Status
from kvmove.registry import ownership
from kvmove.registry.settle import swap_until_known

log = logging.getLogger(__name__)

DRAIN_SECONDS = 5.0
SYNC_SECONDS = 15.0
MEMORY_SECONDS = 30.0
TAKE_OVER_SECONDS = 30.0
"""How long the guest may stand still for each part before the move is given up (drain, sync, memory) or the registry
is asked (hand-over)."""

REGISTRY_SECONDS = 3.0
"""The registry must answer within this before the guest is asked to stand still for the hand-over."""

RETRY_SECONDS = 0.2


async def pause() -> None:
    """Between two attempts to reach the registry or the destination."""
    await asyncio.sleep(RETRY_SECONDS)


@dataclass(slots=True)
class Timing:
    """Milliseconds of each part, in order."""

    parts: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.monotonic)

    def mark(self, part: str) -> None:
        now = time.monotonic()
        self.parts[part] = round((now - self._last) * 1000, 1)
        self._last = now


@dataclass(frozen=True, slots=True)
class SwitchoverParts:
    """What a switchover works with. `record` is the ownership as it is while the move is under way; `targets` are the
    disks that the source writes by itself."""

    plan: MovePlan
    host: HostParts
    destination: AgentClient
    disks: DiskMove
    record: Ownership
    targets: TargetImages | None = None


@dataclass(frozen=True, slots=True)
class LiveParts:
    """What there is besides if the VM has a QEMU. `memory_is_sent` is called once it is: from then on its channels may
    end. `memory_seconds` is how long what is left of memory may take."""

    instance: Instance
    migration: Migration
    mirrors: list[MirrorJob]
    memory_is_sent: Callable[[], None]
    memory_seconds: float = MEMORY_SECONDS


async def settle(parts: SwitchoverParts, timing: Timing) -> None:
    """All there is to do for a VM that is off: the destination has the disks on stable storage.

    :raise KvmoveError: it has not; the caller undoes.
    """
    await asyncio.gather(_sync(parts), _require_registry(parts))
    timing.mark("sync")
    await reach("source-synced")


async def send_rest(parts: SwitchoverParts, live: LiveParts, timing: Timing) -> MigrationInfo:
    """From `pre-switchover` to `completed`.

    :raise KvmoveError: a part failed; the guest stands still at the source, and the caller undoes.
    """
    settled, _ = await asyncio.gather(
        asyncio.to_thread(parts.disks.wait_settled, DRAIN_SECONDS), _require_registry(parts)
    )
    if not settled:
        raise MoveFailed(f"The last disk writes could not be delivered within {DRAIN_SECONDS:.0f} s.")
    timing.mark("drain")
    parts.disks.expect_mirrors_to_end(expected=True)
    await asyncio.gather(
        _sync(parts),
        *(mirror.finish(timeout=SYNC_SECONDS) for mirror in live.mirrors),
    )
    if not parts.disks.has_delivered():
        raise MoveFailed("A write came after the guest was stopped.")
    if not await asyncio.to_thread(parts.disks.wait_settled, DRAIN_SECONDS):
        raise MoveFailed(f"Streams that were lost could not be fenced within {DRAIN_SECONDS:.0f} s.")
    timing.mark("sync")
    await reach("source-synced")
    await live.migration.continue_switchover()
    info = await live.migration.wait_status({Status.COMPLETED}, timeout=live.memory_seconds)
    live.memory_is_sent()
    await run_control.wait_state(live.instance.monitor, run_control.POSTMIGRATE, timeout=MEMORY_SECONDS)
    timing.mark("memory")
    await reach("source-memory-sent")
    return info


async def _sync(parts: SwitchoverParts) -> None:
    """What the source has written by itself first: the destination may freeze the disks in its sync."""
    await asyncio.to_thread(parts.disks.sync_targets)
    if parts.targets is not None:
        await parts.targets.seal()
    await parts.destination.sync_incoming(parts.plan.move_id, {}, timeout=SYNC_SECONDS)


async def _require_registry(parts: SwitchoverParts) -> None:
    """:raise Unreachable: the registry does not answer, or says that this move is not under way."""
    try:
        async with asyncio.timeout(REGISTRY_SECONDS):
            stored = await parts.host.registry.get(parts.plan.vm.uuid)
    except TimeoutError as error:
        raise Unreachable("The registry does not answer, and the VM cannot be handed over without it.") from error
    if stored != parts.record:
        raise Busy(f"The registry says that VM {parts.plan.vm.name} is not in this move any more.")


class Decision(NamedTuple):
    """Who owns the VM after the hand-over. `guest_ended`: the destination does, and its QEMU has ended since."""

    record: Ownership
    guest_ended: bool = False


async def hand_over(
    parts: SwitchoverParts, timing: Timing, in_doubt: Callable[[str], None], *, unwritten: str = ""
) -> Decision:
    """Find out who owns the VM; YIELDED is written. `in_doubt` is told when that takes longer, and why.

    With `unwritten` it says why the word could not be written, and yet may be read in the journal: the destination is
    not asked, and the source's abort wins before the guest goes on.

    Does not raise, but for a cancelled task: then the next start of the agent finds out.
    """
    try:
        await reach("source-yielded")
    except MoveFailed as error:
        unwritten = error.detail
    if unwritten:
        in_doubt(unwritten)
    decision = await decide(parts.plan, parts.host, parts.destination, in_doubt, ask=not unwritten)
    timing.mark("hand-over")
    return decision


async def decide(
    plan: MovePlan, host: HostParts, destination: AgentClient, in_doubt: Callable[[str], None], *, ask: bool = True
) -> Decision:
    """Ask the destination to take over, and if it does not answer let the registry decide; who owns the VM in the end.

    The source's own way out is to win an abort at the same record that the destination must win its commit at: one of
    the two happens. If the commit happened, the destination is asked until it says what became of the guest there, or
    until the registry says that it gave the VM back or has moved it on.
    """
    committed = record_committed(plan)
    if ask:
        try:
            answer = await destination.take_over_incoming(plan.move_id, {}, timeout=TAKE_OVER_SECONDS)
            if (ended := _guest_ended(answer)) is not None:
                return Decision(committed, ended)
            reason = f"the destination says that the move is {answer.get('state')}"
        except KvmoveError as error:
            reason = error.detail
        log.warning("move %s: the hand-over was not answered: %s", plan.move_id, reason)
        in_doubt(reason)
    stored = await _abort_or_read(plan, host, in_doubt)
    while stored is None or stored.owner != host.name:
        if stored is not None and stored != committed and stored.epoch >= committed.epoch:
            return Decision(committed)  # nobody else can change it but a destination that ran it
        with contextlib.suppress(KvmoveError):
            if (ended := _guest_ended(await destination.incoming(plan.move_id))) is not None:
                return Decision(committed, ended)
        await pause()
        with contextlib.suppress(KvmoveError):
            stored = await host.registry.get(plan.vm.uuid)
    return Decision(stored)


async def _abort_or_read(plan: MovePlan, host: HostParts, in_doubt: Callable[[str], None]) -> Ownership | None:
    """The record once it is another than that of the move under way. A registry that refuses to be asked, say because
    this host's certificate has run out, has not said anything about the VM."""
    moving = record_under_way(plan)
    while True:
        try:
            return await swap_until_known(host.registry, moving, ownership.abort(moving, plan.move_id), pause)
        except KvmoveError as error:
            log.error("move %s: the registry cannot be asked: %s", plan.move_id, error.detail)
            in_doubt(f"the registry cannot be asked: {error.detail}")
            await pause()


def _guest_ended(answer: Mapping[str, Any]) -> bool | None:
    """Whether the guest, handed over, has ended at the destination; None while it is not known to have run there."""
    return {"taken": False, "crashed": True}.get(str(answer.get("state")))
