"""Maintenance and balancing as the manager does them, over agents that do as they are told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import ValidationError

from kvmove.admission.costs import Limits
from kvmove.errors import CheckFailed, NotFound
from kvmove.manager.balance_settings import BalanceSettings
from kvmove.manager.balancing import BY
from kvmove.manager.batch import Batch
from kvmove.manager.follow import Follower
from kvmove.manager.inventory import Inventory
from kvmove.manager.moves import Moves
from kvmove.manager.placement_parts import PlacementParts, placement_parts
from kvmove.manager.task_book import TaskBook
from kvmove.manager.task_store import TaskStore
from kvmove.manager.turns import Turns
from kvmove.model.access import NewUser, UserRole
from kvmove.model.host import HostInfo
from kvmove.model.move import HostRef, MovePlan, MoveRequest, MoveStatus, Phase
from kvmove.model.placement import HostMaintenance, MaintenanceRequest, MaintenanceState, Mode, Rule, RuleKind
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import VmStatus
from kvmove.registry.sqlite import SqliteRegistry
from tests.support.clusters import host, vm
from tests.support.eventually import eventually
from tests.support.fake_agent import FakeAgent

REFS = tuple(HostRef(name=name, control=f"10.0.0.{name[1:]}:7441") for name in ("h1", "h2", "h3"))


class LoadedAgent(FakeAgent):
    """It has a load, and a move that it begins is done at once, unless `held`."""

    everybody: dict[str, "LoadedAgent"] = {}

    def __init__(self, ref: HostRef) -> None:
        super().__init__(ref)
        self.cpu: dict[str, float] = {}
        self.held = False

    async def host(self) -> HostInfo:
        await self._answer()
        info = host(self.ref.name, [(it, self.cpu.get(it.definition.name, 0.0)) for it in self.status_of_vms]).info
        assert info is not None
        return info

    async def start_move(self, plan: MovePlan, ticket: str) -> MoveStatus:
        status = await super().start_move(plan, ticket)
        if not self.held:
            self.finish(status)
        return status

    def finish(self, status: MoveStatus) -> None:
        found = next(it for it in self.status_of_vms if it.definition.uuid == status.plan.vm.uuid)
        to = LoadedAgent.everybody[status.plan.destination.name]
        self.status_of_vms.remove(found)
        to.status_of_vms.append(found.model_copy(update={"host": to.ref.name}))
        to.cpu[found.definition.name] = self.cpu.pop(found.definition.name, 0.0)
        self.tell(status.model_copy(update={"outcome": Phase.COMPLETED}))


class World:
    """A manager's parts over three hosts; `restart` is a new life of the manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agents = {ref.name: LoadedAgent(ref) for ref in REFS}
        LoadedAgent.everybody = self.agents
        self.h1 = self.agents["h1"]
        self.settings = BalanceSettings(hold_seconds=0, interval_seconds=0.02)
        self.limits = self.planned = Limits()
        self.stack = AsyncExitStack()

    async def give(self, *vms: tuple[VmStatus, float]) -> None:
        for it, cpu in vms:
            self.agents[it.host].status_of_vms.append(it)
            self.agents[it.host].cpu[it.definition.name] = cpu
            await self.registry.claim(it.definition.uuid, it.host)

    async def start(self) -> None:
        self.registry = SqliteRegistry(self.folder / "registry.db")
        self.stack.push_async_callback(self.registry.close)
        self.book = await TaskBook(TaskStore(self.folder / "tasks.db")).open()
        self.stack.push_async_callback(self.book.close)
        self.inventory = Inventory(REFS, lambda ref: self.agents[ref.name])
        follower = Follower(self.inventory, self.registry, self.book)
        turns = Turns(self.book, self.inventory, self.limits)
        self.moves = Moves(self.inventory, self.registry, self.book, follower, turns)
        self.stack.push_async_callback(self.moves.close)
        parts: PlacementParts = placement_parts(
            self.settings, self.folder, self.inventory, self.moves, self.book, self.planned
        )
        self.stack.push_async_callback(parts.close)
        self.maintenance, self.balancer = parts
        self.moves.resume()
        self.maintenance.resume()

    async def restart(self) -> None:
        await self.stack.aclose()
        await self.start()

    async def ended(self, task: Task) -> Task:
        await eventually(lambda: self.book.get(task.id).ended_state)
        return self.book.get(task.id)

    def places(self) -> dict[str, str]:
        return {it.definition.name: name for name, agent in self.agents.items() for it in agent.status_of_vms}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.start()
    yield world
    await world.stack.aclose()


A, B, LOCAL = vm("a", "h1"), vm("b", "h1"), vm("c", "h1", disk="local")


async def test_a_host_is_emptied_and_takes_nothing_until_it_may(world: World) -> None:
    await world.give((A, 1), (B, 1))
    plan = await world.maintenance.plan("h1", MaintenanceRequest())
    task = await world.ended(await world.maintenance.enter("h1", MaintenanceRequest(), "ann"))
    assert (task.state, task.started_by, task.vm_state) == (TaskState.SUCCEEDED, "ann", "2 moved")
    assert world.places() == {step.vm: step.destination for step in plan.steps}
    assert {it.parent for it in world.book.all() if it.kind == "move"} == {task.id}
    with pytest.raises(CheckFailed, match="h1 is in maintenance since"):
        await world.moves.start(MoveRequest(vm="a", host="h1"))
    with pytest.raises(CheckFailed, match="h1 is in maintenance since"):
        world.inventory.require_open("h1")
    await world.restart()
    mark = world.inventory.host("h1").maintenance
    assert mark is not None and mark.state is MaintenanceState.ON
    assert (await world.maintenance.exit("h1")).maintenance is None
    world.inventory.require_open("h1")


async def test_what_remains_is_told_and_the_mark_stays(world: World) -> None:
    await world.give((A, 1), (LOCAL, 1))
    task = await world.ended(await world.maintenance.enter("h1", MaintenanceRequest(), "ann"))
    assert task.state is TaskState.FAILED
    assert task.problem is not None and "c: h2 does not reach datastore local" in str(task.problem["detail"])
    mark = world.inventory.host("h1").maintenance
    assert mark is not None and [it.vm for it in mark.remains] == ["c"]
    again = await world.maintenance.enter("h1", MaintenanceRequest(move_disks=True), "ann")
    assert (await world.ended(again)).state is TaskState.SUCCEEDED


async def test_cancelling_undoes_the_move_that_runs_and_takes_the_mark_away(world: World) -> None:
    await world.give((A, 1), (B, 1))
    world.h1.held = True
    task = await world.maintenance.enter("h1", MaintenanceRequest(at_once=1), "ann")
    await eventually(lambda: len(world.h1.started) == 1)
    await world.moves.cancel(task)
    assert len(world.h1.cancelled) == 1
    status = next(iter(world.h1.moves.values()))
    world.h1.tell(status.model_copy(update={"outcome": Phase.ABORTED, "problem": {"code": "CANCELLED"}}))
    assert (await world.ended(task)).state is TaskState.CANCELLED
    assert len(world.h1.started) == 1, "nothing more was begun"
    assert world.inventory.host("h1").maintenance is None


async def test_a_restart_goes_on_with_an_evacuation(world: World) -> None:
    await world.give((A, 1), (B, 1))
    world.h1.held = True
    task = await world.maintenance.enter("h1", MaintenanceRequest(at_once=1), "ann")
    await eventually(lambda: len(world.h1.started) == 1)
    await world.restart()
    world.h1.held = False
    world.h1.finish(next(iter(world.h1.moves.values())))
    assert (await world.ended(task)).state is TaskState.SUCCEEDED
    assert set(world.places().values()) <= {"h2", "h3"}


@pytest.fixture
async def narrow(world: World) -> World:
    """One move at a time, which the plans do not know: whatever else is asked for is queued. A move that begins on h1
    is held."""
    world.limits = Limits(host=1, storage_move=1, unified_move=1)
    world.h1.held = True
    await world.restart()
    return world


async def _one_runs_one_waits(world: World) -> Task:
    """An evacuation of h1 of which one move runs and the other is queued."""
    await world.give((A, 1), (B, 1))
    task = await world.maintenance.enter("h1", MaintenanceRequest(at_once=2), "ann")
    await eventually(lambda: len(world.h1.started) == 1 and len(world.book.queued()) == 1)
    return task


def _abort_the_one(world: World) -> None:
    status = next(iter(world.h1.moves.values()))
    world.h1.tell(status.model_copy(update={"outcome": Phase.ABORTED, "problem": {"code": "CANCELLED"}}))


async def test_cancelling_ends_the_moves_that_are_queued_too(narrow: World) -> None:
    task = await _one_runs_one_waits(narrow)
    await narrow.moves.cancel(task)
    assert narrow.book.queued() == []
    _abort_the_one(narrow)
    assert (await narrow.ended(task)).state is TaskState.CANCELLED
    assert len(narrow.h1.started) == 1


async def test_leaving_maintenance_does_not_wait_for_the_queue(narrow: World) -> None:
    await _one_runs_one_waits(narrow)
    leaving = asyncio.create_task(narrow.maintenance.exit("h1"))
    await eventually(lambda: len(narrow.h1.cancelled) == 1)
    assert narrow.book.queued() == []
    _abort_the_one(narrow)
    await leaving
    assert narrow.inventory.host("h1").maintenance is None


async def test_a_restart_waits_for_moves_that_are_queued(narrow: World) -> None:
    task = await _one_runs_one_waits(narrow)
    await narrow.restart()
    await narrow.inventory.refresh()
    adopting = asyncio.create_task(Batch(narrow.moves, narrow.book, task.id, "ann").adopt())
    await asyncio.sleep(0)
    narrow.h1.finish(next(iter(narrow.h1.moves.values())))
    await eventually(lambda: len(narrow.h1.started) == 2)
    await asyncio.sleep(0.1)
    assert not adopting.done()
    narrow.h1.finish(list(narrow.h1.moves.values())[1])
    await adopting
    assert (await narrow.ended(task)).state is TaskState.SUCCEEDED


async def test_a_plan_is_applied_by_its_ids_and_remembered(world: World) -> None:
    await world.give((A, 2), (B, 2))
    with pytest.raises(NotFound, match="cafecafe is not recommended"):
        await world.balancer.apply(["cafecafe"], "ann")
    plan = await world.balancer.plan()
    task = await world.ended(await world.balancer.apply([it.id for it in plan.recommendations], "ann"))
    assert task.state is TaskState.SUCCEEDED, task.problem
    assert [it.recommendation.id for it in world.balancer.history()] == [it.id for it in plan.recommendations]
    assert (await world.balancer.plan()).recommendations == ()
    await world.restart()
    assert world.balancer.history()[0].by == "ann"


@pytest.mark.parametrize(("mode", "moves"), [(Mode.MANUAL, 0), (Mode.PARTIAL, 0), (Mode.AUTOMATIC, 1)])
async def test_only_automatic_mode_moves_by_itself(world: World, mode: Mode, moves: int) -> None:
    world.settings = world.settings.model_copy(update={"mode": mode})
    await world.restart()
    await world.give((A, 2), (B, 2))
    for _ in range(3):
        await world.balancer.look()
        await asyncio.sleep(0.05)
    await eventually(lambda: not world.book.running())
    assert len(world.balancer.history()) == moves


async def test_an_imbalance_has_to_last(world: World) -> None:
    world.settings = world.settings.model_copy(update={"mode": Mode.AUTOMATIC, "hold_seconds": 3600.0})
    await world.restart()
    await world.give((A, 2), (B, 2))
    await world.balancer.look()
    await world.balancer.look()
    assert world.book.all() == []
    assert (await world.balancer.status()).lasting is not None


async def test_auto_is_the_best_host_and_manual_mode_only_names_it(world: World) -> None:
    await world.give((A, 2), (B, 2), (vm("x", "h2"), 3))
    assert (await world.balancer.resolve(MoveRequest(vm="a", host="auto"))).host == "h3"
    await world.balancer.add_rule(Rule(name="far", kind=RuleKind.MUST, vms=("a",), hosts=("h2",)))
    world.settings = world.settings.model_copy(update={"mode": Mode.MANUAL})
    await world.restart()
    with pytest.raises(CheckFailed, match="manual") as caught:
        await world.balancer.resolve(MoveRequest(vm="a", host="auto"))
    assert "the best is h2" in caught.value.hint


async def test_an_idle_host_is_emptied_and_powered_off_and_is_off_after_a_restart(world: World, tmp_path: Path) -> None:
    said = tmp_path / "power"
    on_off = {name: ("sh", "-c", f"echo {name} $0 >> {said}", "{host}") for name in ("on", "off")}
    power = world.settings.power.model_copy(update={"mode": "automatic", **on_off})
    world.settings = world.settings.model_copy(update={"power": power})
    await world.restart()
    await world.give((A, 0.1), (vm("x", "h2"), 0.1), (vm("y", "h3"), 0.1))
    await world.balancer.look()
    await eventually(lambda: bool(world.balancer.history()))
    assert (world.balancer.history()[0].outcome, said.read_text()) == ("done", "off h1\n")
    assert "h1" not in world.places().values()
    await world.restart()
    assert world.inventory.host("h1").powered_off


async def test_a_power_command_that_hangs_is_ended_and_the_host_takes_vms_again(world: World) -> None:
    hanging = {"mode": "manual", "off": ("sleep", "600"), "on": ("true",), "timeout_seconds": 0.2}
    world.settings = world.settings.model_copy(update={"power": world.settings.power.model_copy(update=hanging)})
    await world.restart()
    await world.give((vm("x", "h2"), 0.1))
    task = await world.ended(await world.balancer.apply([], "ann"))
    assert task.problem is not None and "did not end within 0.2 s" in str(task.problem["detail"])
    host_now = world.inventory.host("h1")
    assert (host_now.powered_off, host_now.maintenance) == (False, None)


def _with_power(world: World, said: Path) -> None:
    commands = {"off": ("sh", "-c", f"echo off $0 >> {said}", "{host}"), "on": ("true",), "mode": "manual"}
    world.settings = world.settings.model_copy(update={"power": world.settings.power.model_copy(update=commands)})


async def test_powering_off_leaves_the_maintenance_of_a_person_alone(world: World, tmp_path: Path) -> None:
    _with_power(world, tmp_path / "power")
    await world.restart()
    await world.give((vm("x", "h2"), 0.1))
    found = [it for it in (await world.balancer.plan()).recommendations if it.host == "h1"]
    await world.ended(await world.maintenance.enter("h1", MaintenanceRequest(), "ann"))
    task = await world.ended(await world.balancer._start(found, "ann"))
    assert task.problem is not None and "maintenance already, by ann" in str(task.problem["detail"])
    mark = world.inventory.host("h1").maintenance
    assert mark is not None and mark.by == "ann"
    assert not (tmp_path / "power").exists()


async def test_a_host_that_is_not_empty_any_more_is_not_powered_off(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_power(world, tmp_path / "power")
    await world.restart()
    await world.give((vm("x", "h2"), 0.1))
    mark = world.balancer._it.store.mark

    async def mark_and_arrive(host: str, given: HostMaintenance | None) -> None:
        await mark(host, given)
        if given is not None and given.state is MaintenanceState.ON:
            world.h1.status_of_vms.append(A)

    monkeypatch.setattr(world.balancer._it.store, "mark", mark_and_arrive)
    task = await world.ended(await world.balancer.apply([], "ann"))
    assert task.problem is not None and "h1 is not empty" in str(task.problem["detail"])
    assert not (tmp_path / "power").exists()
    assert (world.inventory.host("h1").powered_off, world.inventory.host("h1").maintenance) == (False, None)


async def test_what_balancing_left_on_a_host_that_is_gone_keeps_it_from_nothing(world: World) -> None:
    left = HostMaintenance(state=MaintenanceState.ON, since="2026-11-23T08:00:00Z", by=BY)
    for name in ("gone", "h1"):
        await world.balancer._it.store.mark(name, left)
    running = asyncio.create_task(world.balancer.run())
    await eventually(lambda: world.inventory.host("h1").maintenance is None)
    await asyncio.sleep(0.05)
    assert not running.done()
    running.cancel()


async def test_what_was_decided_about_a_host_goes_with_it(world: World) -> None:
    await world.ended(await world.maintenance.enter("h1", MaintenanceRequest(), "ann"))
    await world.maintenance.forget("h1")
    assert world.inventory.host("h1").maintenance is None
    await world.maintenance.forget("h1")


def test_nobody_can_be_called_as_balancing_is() -> None:
    with pytest.raises(ValidationError):
        NewUser(name=BY, role=UserRole.OPERATOR)


async def test_of_two_that_enter_at_once_one_does(world: World) -> None:
    world.h1.held = True
    await world.give((A, 1))
    asked = [world.maintenance.enter("h1", MaintenanceRequest(), "ann") for _ in range(2)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(type(it).__name__ for it in found) == ["Busy", "Task"]


async def test_a_defect_of_ours_ends_the_task(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(Batch, "run", broken)
    await world.give((A, 2), (B, 2))
    applied = await world.ended(await world.balancer.apply([], "ann"))
    entered = await world.ended(await world.maintenance.enter("h1", MaintenanceRequest(), "ann"))
    for task in (applied, entered):
        assert task.state is TaskState.FAILED
        assert task.problem is not None and "defect of ours" in str(task.problem["detail"])
