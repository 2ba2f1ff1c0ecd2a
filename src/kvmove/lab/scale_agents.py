"""Hosts that are only figures: agents that answer as real ones do and run nothing, for the scale run.

A tenth of the hosts is twice as busy as the rest, so there is something to balance. Disks lie on one shared datastore
per hundred hosts, as no storage serves a thousand.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

from kvmove import __version__
from kvmove.errors import CheckFailed
from kvmove.model.host import DatastoreInfo, HostInfo, MigrationNic
from kvmove.model.image import DiskImage
from kvmove.model.load import HostLoad, VmLoad
from kvmove.model.move import HostRef, MovePlan, MoveProgress, MoveStatus, Phase
from kvmove.model.vm import DiskDefinition, VmDefinition, VmState, VmStatus
from kvmove.units import GIB

VMS_PER_HOST = 20
_CPUS = 32
_MEMORY = 256 * GIB
_SPEED = 1_250_000_000
_SHARING = 100


class SimulatedAgent:
    """The agent of host number `number`, with its VMs."""

    def __init__(self, ref: HostRef, number: int) -> None:
        draw = random.Random(number)
        self._ref = ref
        hot = 2.0 if number % 10 == 0 else 1.0
        self.status_of_vms = [self._vm(number, index) for index in range(VMS_PER_HOST)]
        loads = [
            VmLoad(uuid=vm.definition.uuid, cpu=round(hot * draw.uniform(0.1, 1.1), 3), memory=vm.definition.memory)
            for vm in self.status_of_vms
        ]
        self._info = self._host(number, loads)
        self._moves: dict[str, MoveStatus] = {}
        self._tickets: dict[str, str] = {}

    def _vm(self, number: int, index: int) -> VmStatus:
        name = f"vm{number:04d}-{index:02d}"
        disk = DiskDefinition(name="root", datastore="shared", size=20 * GIB)
        uuid = UUID(int=number * 1000 + index + 1)
        definition = VmDefinition(name=name, uuid=uuid, memory=4 * GIB, vcpus=2, disks=(disk,))
        return VmStatus(
            definition=definition, host=self._ref.name, state=VmState.RUNNING, epoch=1, pid=1, accelerator="kvm"
        )

    def _host(self, number: int, loads: Sequence[VmLoad]) -> HostInfo:
        used = sum(load.memory for load in loads) + 4 * GIB
        cpu = min((sum(load.cpu for load in loads) + 1) / _CPUS, 1.0)
        group = number // _SHARING
        address = f"10.{group}.{number % _SHARING // 250}.{number % _SHARING + 1}/16"
        return HostInfo(
            name=self._ref.name,
            control=self._ref.control,
            data_port=17450,
            version=__version__,
            qemu_version="7.2.22",
            accelerator="kvm",
            memory_total=_MEMORY,
            memory_free=_MEMORY - used,
            nics=(MigrationNic(name="mig0", address=address, speed=_SPEED),),
            datastores=(
                DatastoreInfo(
                    name="shared", id=UUID(int=10**9 + group), path="/srv/shared", size=90_000 * GIB, free=40_000 * GIB
                ),
            ),
            load=HostLoad(
                cpus=_CPUS, cpu_used=cpu, memory_total=_MEMORY, memory_used=used, cpu_pressure=0.0, vms=tuple(loads)
            ),
        )

    async def host(self) -> HostInfo:
        return self._info

    async def vms(self) -> Sequence[VmStatus]:
        return list(self.status_of_vms)

    async def images(self, vm: UUID) -> list[DiskImage]:
        found = next(it for it in self.status_of_vms if it.definition.uuid == vm)
        return [DiskImage(name=disk.name, allocated=disk.size) for disk in found.definition.disks]

    async def expect_incoming(self, plan: MovePlan, ticket: str) -> None:
        self._tickets[plan.move_id] = ticket

    async def start_move(self, plan: MovePlan, ticket: str) -> MoveStatus:
        progress = MoveProgress(phase=Phase.COPYING_MEMORY)
        status = MoveStatus(move_id=plan.move_id, plan=plan, progress=progress, vm_state=f"running on {self._ref.name}")
        self._moves[plan.move_id] = status
        self._tickets[plan.move_id] = ticket
        return status

    async def move(self, move_id: str) -> MoveStatus:
        return self._moves[move_id]

    async def events(self, move_id: str) -> AsyncGenerator[MoveStatus, None]:
        """It ends at once, cancelled, so that nothing is left to follow."""
        error = {"code": "CANCELLED", "detail": "only figures"}
        yield self._moves[move_id].model_copy(update={"outcome": Phase.ABORTED, "problem": error})

    async def cancel(self, move_id: str) -> MoveStatus:
        return self._moves[move_id]

    async def close(self) -> None:
        """Nothing is open."""

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Everything else that an agent can be asked: it refuses."""
        if name.startswith("_"):
            raise AttributeError(name)

        async def refuse(*_asked: object) -> None:
            raise CheckFailed(f"{self._ref.name} is only figures: it cannot {name}")

        return refuse
