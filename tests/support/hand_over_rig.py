"""The product's own hand-over (`IncomingMove`, `MoveRecovery`, `decide`) between two agents in memory, with faults.

The registry, the QEMUs and the way between the agents are simple and honest fakes; journals are real files. Everything
that a party does to the world is a numbered step, and a schedule says what goes wrong at which step. After each step
the world is judged; `run` ends when both agents have done all that they owe.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast
from uuid import UUID

from kvmove.client.agent import AgentClient
from kvmove.errors import CheckFailed, NotFound, QemuError, Unreachable
from kvmove.migration.destination import IncomingMove, IncomingState
from kvmove.migration.host_parts import HostParts
from kvmove.migration.journal import Journal, Step
from kvmove.migration.move_record import record_under_way
from kvmove.migration.recovery import MoveRecovery
from kvmove.model.move import HostRef, MovePlan
from kvmove.model.ownership import Ownership
from kvmove.model.vm import VmDefinition
from kvmove.registry import ownership

T = TypeVar("T")

SOURCE, DESTINATION = "h1", "h2"
PLAN = MovePlan(
    move_id="m1",
    vm=VmDefinition(name="vm", uuid=UUID(int=7), memory=64 * 2**20),
    source=HostRef(name=SOURCE, control="10.0.0.1:7441"),
    destination=HostRef(name=DESTINATION, control="10.0.0.2:7441"),
    disks=(),
    routes=(),
    epoch=4,
)
MOST_STEPS = 600
LATE = 4
SLOW_ROUNDS = 40


class Fault(StrEnum):
    """What may go wrong at a step. LATE: an answer is lost, and what was asked takes effect some steps later."""

    CRASH = "the agent that acts dies"
    OTHER_CRASH = "the other agent dies"
    LOST_BEFORE = "the request is lost"
    LOST_AFTER = "the answer is lost"
    LATE = "the request arrives late"
    QEMU = "the destination's QEMU dies"
    REFUSED = "QEMU refuses"


class Crash(BaseException):
    """An agent died."""


class Violation(BaseException):
    """What must never be. As little as a death is it for the code to catch."""


class Guest:
    """A QEMU with the whole memory of the guest; its vCPUs stand still at first. Also its monitor and its process."""

    pid = 1
    sequence = 0

    def __init__(self, rig: "Rig", host: str) -> None:
        self.rig = rig
        self.host = host
        self.alive = True
        self.running = False

    async def execute(self, command: str, arguments: object = None, timeout: float = 0) -> dict[str, Any]:
        answer: dict[str, Any] = await self.rig.act(self.host, command, lambda: self._execute(command))
        return answer

    def _execute(self, command: str) -> dict[str, Any]:
        if not self.alive:
            raise Unreachable("QEMU has ended")
        if command == "cont":
            self.rig.lets_run(self)
        return {"status": "completed" if command == "query-migrate" else "running" if self.running else "paused"}

    def is_alive(self) -> bool:
        return self.alive

    async def end(self) -> None:
        self.rig.ends(self)


class Rig:
    """The world. `schedule` says at which step what goes wrong."""

    def __init__(self, folder: Path, schedule: Mapping[int, Fault]) -> None:
        self.schedule = schedule
        self.steps: list[str] = []
        self.struck: list[int] = []  # the steps at which something did go wrong
        self.record: Ownership | None = record_under_way(PLAN)
        self.guests = {host: Guest(self, host) for host in (SOURCE, DESTINATION)}
        self.ran_there = False
        self.hurt = False
        self.owns = False
        self._late: list[tuple[int, Callable[[], object]]] = []
        self._parts = {host: self._host(folder / host, host) for host in (SOURCE, DESTINATION)}
        self._calls: set[asyncio.Task[dict[str, Any]]] = set()
        self._lives: dict[str, asyncio.Task[Any]] = {}
        self.move: IncomingMove | None = self._first_life()
        self.is_source_done = asyncio.Event()

    def _host(self, folder: Path, host: str) -> HostParts:
        folder.mkdir(parents=True)
        parts = SimpleNamespace(
            name=host, vms=_Vms(self, host), datastores={}, registry=_Registry(self, host), run=folder, pki=folder,
            listener=SimpleNamespace(forget=lambda move_id: None), outgoing=Journal(folder, "outgoing"),
            incoming=Journal(folder, "incoming"),
        )  # fmt: skip
        return cast(HostParts, parts)

    def instance(self, host: str) -> Any:
        guest = self.guests[host]
        return SimpleNamespace(monitor=guest, oob=guest, process=guest, disk_nodes={})

    def _first_life(self) -> IncomingMove:
        plan = {"plan": PLAN.model_dump(mode="json")}
        outgoing = self._parts[SOURCE].outgoing.of("m1")
        outgoing.write(Step.BEGAN, plan)
        outgoing.write(Step.YIELDED, {})
        move = IncomingMove(self._parts[DESTINATION], PLAN, b"")
        move._journal.write(Step.PREPARED, plan)
        move.state, move._instance = IncomingState.PREPARED, self.instance(DESTINATION)
        return move

    # Steps and faults.

    async def act(self, host: str, what: str, effect: Callable[[], Any]) -> Any:
        """`host` does something to the world; its answer, unless something goes wrong."""
        await asyncio.sleep(0)
        number = len(self.steps)
        fault = self.schedule.get(number)
        self.struck += [number] if fault else []
        self.steps.append(f"{number} {host} {what}{f' — {fault}' if fault else ''}")
        if number > MOST_STEPS:
            raise Violation("it does not come to an end")
        for due, late in [entry for entry in self._late if entry[0] <= number]:
            self._late.remove((due, late))
            with contextlib.suppress(Exception):
                late()
        self._strike(host, fault, number, effect, what)
        for _ in range(SLOW_ROUNDS if fault is Fault.OTHER_CRASH else 0):
            await asyncio.sleep(0)  # the other one is back before this one goes on
        answer = effect()
        if fault is Fault.LOST_AFTER:
            raise Unreachable("the answer was lost")
        return answer

    def _strike(self, host: str, fault: Fault | None, number: int, effect: Callable[[], Any], what: str) -> None:
        if fault is Fault.CRASH:
            raise Crash
        if fault is Fault.OTHER_CRASH:
            self.kill(DESTINATION if host == SOURCE else SOURCE)
        if fault is Fault.LOST_BEFORE:
            raise Unreachable("the request was lost")
        if fault is Fault.LATE and what == "swap":
            self._late.append((number + LATE, effect))
            raise Crash
        if fault is Fault.QEMU:
            self.hurt = True
            self.guests[DESTINATION].alive = self.guests[DESTINATION].running = False
        if fault is Fault.REFUSED and what == "cont":
            raise QemuError("cont", "GenericError", "the disk is locked")

    def lets_run(self, guest: Guest) -> None:
        other = self.guests[DESTINATION if guest.host == SOURCE else SOURCE]
        if other.alive and other.running:
            raise Violation(f"both run: {guest.host} was let run beside {other.host}")
        if self.record is None or self.record.owner != guest.host or self.record.move_id is not None:
            raise Violation(f"{guest.host} lets the guest run without the right: {self.record}")
        guest.running = True
        self.ran_there = self.ran_there or guest.host == DESTINATION
        if guest.host == SOURCE and self.ran_there:
            raise Violation("the source goes on from a state that the guest has left behind at the destination")

    def ends(self, guest: Guest) -> None:
        """An agent ends a QEMU on purpose."""
        if guest.alive and guest.running:
            raise Violation(f"{guest.host} ends the running guest")
        if guest.alive and guest.host == SOURCE and not self._may_have_run_there():
            raise Violation("the source throws the memory away that nobody has gone on from")
        guest.alive = False

    def _may_have_run_there(self) -> bool:
        """It did, or its QEMU died by itself when it was about to."""
        return self.ran_there or (self.hurt and self._parts[DESTINATION].incoming.of("m1").has(Step.CONT_INTENT))

    def kill(self, host: str) -> None:
        """SIGKILL for an agent; it starts again."""
        if host == DESTINATION:
            self.move = None
            for call in self._calls:
                call.cancel()
        if host in self._lives:
            self._lives[host].cancel()

    # The agents' lives.

    async def run(self) -> None:
        """Until both have done what they owe.

        :raise Violation: something happened that never may.
        """
        lives = [asyncio.create_task(self._live(host)) for host in (SOURCE, DESTINATION)]
        try:
            done, _ = await asyncio.wait(lives, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in (*lives, *self._lives.values(), *self._calls):
                task.cancel()
            await asyncio.gather(*lives, *self._lives.values(), *self._calls, return_exceptions=True)
        self._judge_end()

    async def _live(self, host: str) -> None:
        begin = self._source if host == SOURCE else self._destination
        while True:
            self._lives[host] = asyncio.create_task(_caught(begin), name=host)
            await asyncio.wait({self._lives[host]})
            if self._lives[host].cancelled():
                self.kill(host)
            else:
                self._lives[host].result()
                return

    async def _source(self) -> None:
        journal = self._parts[SOURCE].outgoing.of("m1")
        if not journal.has(Step.ENDED):
            await MoveRecovery(self._parts[SOURCE], journal).run()
        self.is_source_done.set()

    async def _destination(self) -> None:
        if self.move is None:
            self.move = IncomingMove(self._parts[DESTINATION], PLAN, b"")
            if self.move.state is IncomingState.INTERRUPTED:
                await self.move.recover()
        await self.is_source_done.wait()

    async def call(self, what: str) -> dict[str, Any]:
        """The source asks the destination's agent."""
        answer: dict[str, Any] = {}

        async def asked() -> dict[str, Any]:
            if self.move is None:
                raise Unreachable("connection refused")
            work: Awaitable[dict[str, Any]] = getattr(self.move, what)()
            return await work

        await self.act(SOURCE, f"asks for {what}", lambda: None)
        if what == "status":
            if self.move is None:
                raise Unreachable("connection refused")
            return self.move.status()
        call = asyncio.create_task(_caught(asked))
        self._calls.add(call)
        await asyncio.wait({call})
        self._calls.discard(call)
        if call.cancelled():
            self.kill(DESTINATION)
            raise Unreachable("the connection broke")
        answer = call.result()
        await self.act(SOURCE, f"is answered {what}", lambda: None)
        return answer

    # The end.

    def _judge_end(self) -> None:
        running = [host for host, guest in self.guests.items() if guest.alive and guest.running]
        owner = self.record.owner if self.record is not None else "nobody"
        if self.record is None or self.record.move_id is not None:
            raise Violation(f"the registry is left at {self.record}")
        if running not in ([owner], []):
            raise Violation(f"{running} run, {owner} owns the VM")
        if not running and not self.hurt:
            raise Violation("the VM is lost, and nobody hurt it")
        if not running and owner == SOURCE:
            raise Violation("the source has the memory and does not go on")


async def _caught(work: Callable[[], Awaitable[T]]) -> T:
    """A crash ends a task as a kill from outside does."""
    try:
        return await work()
    except Crash:
        raise asyncio.CancelledError from None


class _Registry:
    def __init__(self, rig: Rig, host: str) -> None:
        self._rig = rig
        self._host = host

    async def get(self, vm: UUID) -> Ownership | None:
        answer: Ownership | None = await self._rig.act(self._host, "reads", lambda: self._rig.record)
        return answer

    async def swap(self, expected: Ownership, new: Ownership) -> Ownership:
        ownership.check_right(self._host, expected, new)

        def change() -> Ownership:
            self._rig.record = ownership.compare_and_swap(self._rig.record, expected, new)
            return self._rig.record

        answer: Ownership = await self._rig.act(self._host, "swap", change)
        return answer


class _Vms:
    def __init__(self, rig: Rig, host: str) -> None:
        self._rig = rig
        self._host = host

    def definition(self, vm: UUID) -> VmDefinition:
        if self._host == DESTINATION and not self._rig.owns:
            raise NotFound("no such VM")
        return PLAN.vm

    def instance(self, vm: UUID) -> Any:
        if not self._rig.guests[self._host].alive:
            raise CheckFailed("it does not run here")
        return self._rig.instance(self._host)

    def end_move(self, vm: UUID, epoch: int) -> None:
        pass

    async def adopt_incoming(self, definition: VmDefinition, move_id: str) -> Any:
        await self._rig.act(self._host, "adopts", lambda: None)
        return self._rig.instance(self._host) if self._rig.guests[self._host].alive else None

    async def discard_incoming(self, vm: UUID) -> None:
        await self._rig.act(self._host, "discards", lambda: self._rig.ends(self._rig.guests[self._host]))

    def surviving(self, vm: UUID) -> Any:
        return self._rig.instance(self._host) if self._rig.guests[self._host].alive else None

    async def take_ownership(self, definition: VmDefinition, epoch: int, *, runs: bool) -> None:
        def own() -> None:
            self._rig.owns = True

        await self._rig.act(self._host, "owns", own)

    async def give_away(self, vm: UUID, epoch: int) -> bool:
        await self._rig.act(self._host, "gives away", lambda: self._rig.ends(self._rig.guests[self._host]))
        return True


class Destination:
    """In the place of `AgentClient` at the source."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    async def take_over_incoming(self, move_id: str, body: object, timeout: float = 0) -> dict[str, Any]:
        return await self._rig.call("take_over")

    async def abandon_incoming(self, move_id: str, body: object, timeout: float = 0) -> dict[str, Any]:
        return await self._rig.call("abandon")

    async def incoming(self, move_id: str) -> dict[str, Any]:
        return await self._rig.call("status")

    async def close(self) -> None:
        pass


def client_of(rig: Rig) -> Callable[..., AgentClient]:
    """What makes the source's client."""
    return lambda host, pki: cast(AgentClient, Destination(rig))
