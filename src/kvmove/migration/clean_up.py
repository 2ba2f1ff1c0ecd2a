"""After the hand-over: what the source gives away, or what it keeps.

The source's disks are put aside, not deleted: `keep_source` seconds later the agent deletes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

from kvmove.client.agent import AgentClient
from kvmove.disk.quarantine import Leaving
from kvmove.errors import KvmoveError, MoveFailed
from kvmove.failpoints import reach
from kvmove.migration.disk_images import image_digest
from kvmove.migration.host_parts import HostParts
from kvmove.migration.journal import Step
from kvmove.migration.move_board import MoveBoard
from kvmove.model.move import MovePlan, Phase
from kvmove.model.ownership import Ownership
from kvmove.model.vm import Power
from kvmove.qemu import run_control
from kvmove.qemu.instance import Instance
from kvmove.qemu.migration import MigrationInfo

log = logging.getLogger(__name__)

DIGEST_SECONDS = 3600.0
CLEAN_UP_ATTEMPTS = 5
RETRY_SECONDS = 0.5


async def give_away(
    host: HostParts,
    plan: MovePlan,
    destination: AgentClient,
    board: MoveBoard,
    info: MigrationInfo | None = None,
    *,
    guest_ended: bool = False,
) -> None:
    """The VM is the destination's: clean up here and end the move on the board. Nothing that fails here changes that.

    `info` is QEMU's last word, for the report. `guest_ended`: the guest was handed over, and its QEMU there has ended.
    """
    if not guest_ended:
        board.enter(Phase.CLEANING_UP)
    for _ in range(CLEAN_UP_ATTEMPTS):
        try:
            await reach("source-cleaning-up")
            await clean_up(host, plan, destination, board)
            break
        except (KvmoveError, OSError) as error:
            log.error("move %s: the source is not clean yet: %s", plan.move_id, error)
            board.message = f"something is left at the source: {error}"
            await asyncio.sleep(RETRY_SECONDS)
    if not guest_ended:
        board.ended(Phase.COMPLETED, info)
        return
    board.failing(
        MoveFailed(
            f"VM {plan.vm.name} was handed over to {plan.destination.name}, and its QEMU there ended.",
            hint=f"Start it there: kvmove vm start {plan.vm.name}. Look at its qemu.log before.",
            step=Phase.SWITCHING_OVER,
        )
    )
    board.ended(Phase.LOST)


async def clean_up(host: HostParts, plan: MovePlan, destination: AgentClient, board: MoveBoard) -> None:
    """The VM runs at the destination: end the paused QEMU here, compare the disks if asked, put them aside.

    Nothing is done to a VM that has come back meanwhile, nor twice to a datastore: other disks of the same names may
    lie there by then.
    """
    if not await host.vms.give_away(plan.vm.uuid, plan.epoch):
        log.warning("VM %s is back here already; nothing is cleaned up after move %s", plan.vm.name, plan.move_id)
        return
    if plan.verify:
        here, there = await asyncio.gather(_own_digests(host, plan), _their_digests(plan, destination))
        board.digests(here, there)
    journal = host.outgoing.of(plan.move_id)
    done = list(journal.steps.get(Step.PUT_ASIDE, {}).get("datastores", ()))
    for name, disks in plan.disks_of(lambda disk: disk.source_datastore).items():
        try:
            if name not in done:
                leaving = leaving_disks(plan, disks)
                await asyncio.to_thread(host.datastores[name].quarantine, plan.vm.uuid, plan.move_id, leaving)
                done.append(name)
                journal.write(Step.PUT_ASIDE, {"datastores": done})
        except (KvmoveError, OSError) as error:
            log.error("the old disks of VM %s stay where they are: %s", plan.vm.name, error)
            board.message = f"the old disks stay at the source: {error}"


def leaving_disks(plan: MovePlan, disks: Iterable[str]) -> Leaving:
    """Those of `disks`, which lie in one datastore, against all other disks of the VM: one that stays there, or has
    come there by this very move, is not to go with them."""
    leaving = tuple(disks)
    return Leaving(leaving, tuple(disk.name for disk in plan.vm.disks if disk.name not in leaving))


async def _own_digests(host: HostParts, plan: MovePlan) -> dict[str, str]:
    """Empty for a disk that an interrupted clean-up has put aside already."""
    digests = {}
    for disk in plan.disks:
        path = host.datastores[disk.source_datastore].disk_path(plan.vm.uuid, plan.old_disk(disk))
        if path.exists():
            try:
                digests[disk.name] = await image_digest(host.run, plan.old_disk(disk), path)
            except KvmoveError as error:
                log.error("no digest of %s: %s", path, error.detail)
    return digests


async def _their_digests(plan: MovePlan, destination: AgentClient) -> dict[str, str]:
    try:
        answer = await destination.digest_incoming(plan.move_id, {}, timeout=DIGEST_SECONDS)
    except KvmoveError as error:
        log.error("the destination gave no digests: %s", error.detail)
        return {}
    return dict(answer.get("digests", {}))


async def stay(host: HostParts, plan: MovePlan, instance: Instance | None, record: Ownership) -> None:
    """The registry says that the VM is this host's (still, or again): let a guest that ran go on.

    One that was paused stays so, with its disks given up by QEMU (`postmigrate`) until it is resumed.

    :raise KvmoveError: it does not; the VM is paused here and nowhere else, and the operator's again.
    """
    try:
        if instance is None or plan.power is not Power.RUNNING:
            return
        await run_control.go_on(instance.monitor)
        with contextlib.suppress(KvmoveError):
            await run_control.announce_self(instance.monitor)
    finally:
        host.vms.end_move(plan.vm.uuid, record.epoch)
