"""An agent that is a few fields: it answers as it is told to, and remembers what it was asked."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from uuid import UUID

from kvmove.errors import KvmoveError, NotFound, Unreachable
from kvmove.logs import LoggedFields
from kvmove.model.forecast import DiskSample, GuestSample, StorageSample, WireSample
from kvmove.model.host import HostInfo
from kvmove.model.image import DiskImage
from kvmove.model.log import LogLine
from kvmove.model.move import HostRef, MovePlan, MoveStatus
from kvmove.model.probe import (
    HeardRequest,
    HeardResult,
    HereFacts,
    HereRequest,
    ListenRequest,
    PairProbe,
    QemuFacts,
    SendRequest,
    SendResult,
)
from kvmove.model.terms import TermsOrder, Word
from kvmove.model.vm import VmDefinition, VmState, VmStatus
from kvmove.units import MIB
from tests.support import samples


class FakeAgent:
    """`down` set: nothing answers. `refusal` set: the next move is refused by it. `moves` holds what it knows. `deaf`
    names bridges on which it hears nothing, `unreachable` has reasons by a destination's address."""

    def __init__(self, ref: HostRef) -> None:
        self.ref = ref
        self.down = False
        self.slow = False
        self.refusal: KvmoveError | None = None
        self.status_of_vms: list[VmStatus] = []
        self.moves: dict[str, MoveStatus] = {}
        self.expected: list[tuple[MovePlan, str]] = []
        self.started: list[tuple[MovePlan, str]] = []
        self.cancelled: list[str] = []
        self.said: list[tuple[str, str, str]] = []
        self.orders: list[tuple[str, TermsOrder]] = []
        self.disk_images: list[DiskImage] = []
        self.qemu = samples.qemu_facts()
        self.here = HereFacts(clock=0.0)
        self.clock_ahead = 0.0
        self.deaf: tuple[str, ...] = ()
        self.unreachable: dict[str, str] = {}
        self.probed = 0
        self._listening: tuple[str, ...] = ()
        self.asked = 0
        self.logs: dict[str, list[LogLine]] = {}
        self.guest_sample = GuestSample(memory_used=256 * MIB, dirty_rate=MIB, write_rate=MIB, writes=10.0)
        self.wire_sample = WireSample(rates={"mig0": 100 * MIB})
        self.storage_sample = StorageSample(disks={"root": DiskSample(rate=400 * MIB)})
        self.tries: list[str] = []
        self._changed = asyncio.Event()

    def tell(self, status: MoveStatus) -> None:
        """The move is so now; whoever listens hears of it."""
        self.moves[status.move_id] = status
        self.wake()

    def wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def host(self) -> HostInfo:
        await self._answer()
        return samples.host_info(self.ref.name)

    async def metrics(self) -> str:
        await self._answer()
        return f"kvmove_agent_vms {len(self.status_of_vms)}\n"

    async def log(self) -> list[LoggedFields]:
        await self._answer()
        return [{"event": "a line"}]

    async def vms(self) -> Sequence[VmStatus]:
        await self._answer()
        return list(self.status_of_vms)

    async def define(self, definition: VmDefinition) -> VmStatus:
        await self._answer()
        self.status_of_vms.append(VmStatus(definition=definition, host=self.ref.name, state=VmState.OFF, epoch=1))
        return self.status_of_vms[-1]

    async def delete(self, vm: UUID) -> None:
        self.status_of_vms.remove(await self._find(vm))

    async def probe_qemu(self) -> QemuFacts:
        await self._answer()
        return self.qemu

    async def probe_here(self, request: HereRequest) -> HereFacts:
        await self._answer()
        return self.here.model_copy(update={"clock": time.time() + self.clock_ahead})

    async def probe_listen(self, request: ListenRequest) -> None:
        await self._answer()
        self._listening = request.bridges

    async def probe_send(self, request: SendRequest) -> SendResult:
        """`unreachable` has reasons by destination address; all others are reached."""
        await self._answer()
        self.probed += 1
        return SendResult(
            pairs=tuple(
                PairProbe(
                    **pair.model_dump(exclude={"mtu"}),
                    reachable=pair.destination_address not in self.unreachable,
                    reason=self.unreachable.get(pair.destination_address, ""),
                    round_trip_ms=0.2,
                    mtu=pair.mtu,
                    whole=True,
                )
                for pair in request.pairs
            )
        )

    async def probe_heard(self, request: HeardRequest) -> HeardResult:
        await self._answer()
        return HeardResult(heard=tuple(it for it in self._listening if it not in self.deaf))

    async def images(self, vm: UUID) -> list[DiskImage]:
        return self.disk_images

    async def start(self, vm: UUID) -> VmStatus:
        return await self._set(vm, VmState.RUNNING)

    async def stop(self, vm: UUID) -> VmStatus:
        return await self._set(vm, VmState.OFF)

    async def pause(self, vm: UUID) -> VmStatus:
        return await self._set(vm, VmState.PAUSED)

    async def resume(self, vm: UUID) -> VmStatus:
        return await self._set(vm, VmState.RUNNING)

    async def kill(self, vm: UUID) -> VmStatus:
        return await self._set(vm, VmState.OFF)

    async def expect_incoming(self, plan: MovePlan, ticket: str) -> None:
        await self._answer()
        self._refuse()
        self.expected.append((plan, ticket))

    async def start_move(self, plan: MovePlan, ticket: str) -> MoveStatus:
        await self._answer()
        self._refuse()
        self.started.append((plan, ticket))
        status = samples.status(percent=0.0).model_copy(update={"plan": plan, "move_id": plan.move_id})
        self.tell(status)
        return status

    async def move(self, move_id: str) -> MoveStatus:
        await self._answer()
        if move_id not in self.moves:
            raise NotFound(f"{self.ref.name} knows no move {move_id}")
        return self.moves[move_id]

    async def events(self, move_id: str) -> AsyncGenerator[MoveStatus, None]:
        while True:
            changed = self._changed
            status = await self.move(move_id)
            yield status
            if status.outcome is not None:
                return
            await changed.wait()

    async def cancel(self, move_id: str) -> MoveStatus:
        await self._answer()
        self.cancelled.append(move_id)
        return await self.move(move_id)

    async def move_log(self, move_id: str) -> list[LogLine]:
        await self._answer()
        return self.logs.get(move_id, [])

    async def say(self, move_id: str, verb: str, word: Word) -> MoveStatus:
        await self._answer()
        self._refuse()
        self.said.append((move_id, verb, word.by))
        return await self.move(move_id)

    async def change_terms(self, move_id: str, order: TermsOrder) -> MoveStatus:
        await self._answer()
        self.orders.append((move_id, order))
        return await self.move(move_id)

    async def sample_guest(self, plan: MovePlan, ticket: str) -> GuestSample:
        await self._answer()
        self.tries.append("guest")
        return self.guest_sample

    async def expect_sample(self, plan: MovePlan, ticket: str) -> None:
        await self._answer()
        self.tries.append("expect")

    async def sample_wire(self, plan: MovePlan, ticket: str) -> WireSample:
        await self._answer()
        self.tries.append("wire")
        return self.wire_sample

    async def sample_storage(self, plan: MovePlan, ticket: str) -> StorageSample:
        await self._answer()
        self.tries.append("storage")
        return self.storage_sample

    async def close(self) -> None:
        """Nothing is open."""

    async def _answer(self) -> None:
        self.asked += 1
        await asyncio.sleep(3600 if self.slow else 0)
        if self.down:
            raise Unreachable(f"agent {self.ref.name} at {self.ref.control} gave no answer: Connection refused")

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def _find(self, vm: UUID) -> VmStatus:
        await self._answer()
        return next(status for status in self.status_of_vms if status.definition.uuid == vm)

    async def _set(self, vm: UUID, state: VmState) -> VmStatus:
        old = await self._find(vm)
        self.status_of_vms.remove(old)
        self.status_of_vms.append(old.model_copy(update={"state": state}))
        return self.status_of_vms[-1]
