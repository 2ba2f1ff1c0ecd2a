"""The VMs that are moving in: each a QEMU of this host that waits for memory, and not yet this host's own.

Nothing is remembered across a restart of the agent; the move's journal does that, and `adopt` finds the QEMU again.
Not done here: the steps of a move, and the disks that it brings.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from kvmove.agent.launcher import Launcher
from kvmove.agent.qemu_state import state_of
from kvmove.errors import Busy
from kvmove.model.vm import VmDefinition, VmState, VmStatus
from kvmove.qemu.instance import Instance


class Arrival(NamedTuple):
    """A VM that moves in."""

    definition: VmDefinition
    move_id: str
    instance: Instance


class Arrivals:
    """All of this host, which is called `name`."""

    def __init__(self, name: str, launcher: Launcher) -> None:
        self._name = name
        self._launcher = launcher
        self._all: dict[UUID, Arrival] = {}

    def definitions(self) -> list[VmDefinition]:
        return [arrival.definition for arrival in self._all.values()]

    def has(self, vm: UUID) -> bool:
        """Whether the VM is moving in."""
        return vm in self._all

    async def start(self, definition: VmDefinition, move_id: str) -> Instance:
        """Start a QEMU that waits for the VM's memory; its disks are there.

        :raise Busy: it is moving in already.
        :raise KvmoveError: it cannot be started; nothing of it is left.
        """
        if definition.uuid in self._all:
            raise Busy(f"VM {definition.name} is moving in already")
        instance = await self._launcher.launch(definition, incoming=True)
        self._all[definition.uuid] = Arrival(definition, move_id, instance)
        return instance

    async def adopt(self, definition: VmDefinition, move_id: str) -> Instance | None:
        """The QEMU that waited for this move before the agent was restarted, if it still lives.

        :raise Unreachable: it lives and does not answer.
        """
        if definition.uuid not in self._all:
            instance = await self._launcher.adopt(definition)
            if instance is None:
                return None
            self._all[definition.uuid] = Arrival(definition, move_id, instance)
        return self._all[definition.uuid].instance

    async def discard(self, vm: UUID) -> None:
        """End the VM's QEMU, known here or not, and clear it away.

        :raise Unreachable: it does not end.
        """
        arrival = self._all.pop(vm, None)
        await self._launcher.clear(vm, arrival.instance if arrival is not None else None)

    def take(self, vm: UUID) -> Instance | None:
        """The VM's QEMU, which is the caller's from now on."""
        arrival = self._all.pop(vm, None)
        return arrival.instance if arrival is not None else None

    async def disconnect(self) -> None:
        """Let go of all; they wait on."""
        for arrival in list(self._all.values()):
            await arrival.instance.disconnect()
        self._all.clear()

    async def statuses(self) -> list[VmStatus]:
        """Them as they are now. A guest that runs already is said to, also before its owner is written down."""
        return [await self._status(arrival) for arrival in list(self._all.values())]  # one may leave meanwhile

    async def _status(self, arrival: Arrival) -> VmStatus:
        state = await state_of(arrival.instance)
        return VmStatus(
            definition=arrival.definition,
            host=self._name,
            state=state if state is VmState.RUNNING else VmState.INCOMING,
            pid=arrival.instance.process.pid,
            accelerator=self._launcher.accelerator_for(arrival.definition),
            move_id=arrival.move_id,
        )
