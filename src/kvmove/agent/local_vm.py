"""One VM of this host as the agent has it in memory; what is remembered of it is in its record (vm_store)."""

from __future__ import annotations

import asyncio
import logging

from kvmove.agent.qemu_state import state_of
from kvmove.agent.vm_store import VmRecord
from kvmove.errors import Busy
from kvmove.model.vm import VmDefinition, VmState
from kvmove.qemu.guest_agent import trim_guest
from kvmove.qemu.instance import Instance

log = logging.getLogger(__name__)


class LocalVm:
    """One VM of this host. `lock` is held by whoever starts, stops or deletes it."""

    def __init__(self, record: VmRecord) -> None:
        self.record = record
        self.instance: Instance | None = None
        self.move_id: str | None = None
        self.ending = False
        self.lock = asyncio.Lock()
        self.gone = asyncio.Event()
        self.gone.set()

    @property
    def definition(self) -> VmDefinition:
        return self.record.definition

    def require_no_move(self) -> None:
        if self.move_id is not None:
            raise Busy(
                f"VM {self.definition.name} moves (move {self.move_id})",
                hint="Wait until the move has ended, or cancel it: kvmove task cancel.",
            )


async def trim(vm: LocalVm) -> None:
    """New disks may hold what the guest had discarded while QEMU's mirror dropped its discards: ask it again."""
    runs = vm.instance is not None and await state_of(vm.instance) is VmState.RUNNING
    if runs and vm.instance is not None and (told := await trim_guest(vm.instance)):
        log.info("VM %s: %s", vm.definition.name, told)
