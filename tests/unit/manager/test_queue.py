"""Moves that wait: for room, for their time, over a restart; and what may be done about them meanwhile."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from kvmove.errors import Busy, MoveFailed, NotFound, Unreachable
from kvmove.manager import follow, turns
from kvmove.manager.follow import Follower
from kvmove.manager.inventory import Inventory
from kvmove.manager.moves import Moves
from kvmove.manager.task_book import TaskBook
from kvmove.manager.task_store import TaskStore
from kvmove.manager.turns import Turns
from kvmove.model.log import LogLine
from kvmove.model.move import MovePlan, MoveRequest, MoveStatus
from kvmove.model.ownership import Ownership
from kvmove.model.priority import Priority
from kvmove.model.task import Task, TaskChange, TaskState
from kvmove.model.vm import VmState
from kvmove.registry.sqlite import SqliteRegistry
from tests.support import samples
from tests.support.eventually import eventually
from tests.support.fake_agent import FakeAgent
from tests.support.samples import H1, H2

NAMES = ("vm1", "vm2", "vm3", "vm4")


class Site:
    """Four VMs on h1, of which two may move at once. `now` is the manager's clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = datetime(2026, 11, 23, 8, tzinfo=UTC)
        self.agents = {ref.name: FakeAgent(ref) for ref in (H1, H2)}
        self.h1, self.h2 = self.agents.values()
        self.h1.status_of_vms = [samples.vm(definition=samples.definition(name, _uuid(name))) for name in NAMES]
        self.registry = SqliteRegistry(folder / "registry.db")

    async def open(self) -> None:
        self.book = await TaskBook(TaskStore(self.folder / "tasks.db")).open()
        self.inventory = Inventory([H1, H2], lambda ref: self.agents[ref.name])
        self.moves = Moves(
            self.inventory, self.registry, self.book, Follower(self.inventory, self.registry, self.book),
            Turns(self.book, self.inventory, clock=lambda: self.now),
        )  # fmt: skip
        await self.inventory.refresh()
        self.moves.resume()

    async def close(self) -> None:
        await self.moves.close()
        await self.book.close()

    async def ask(self, name: str, **options: object) -> Task:
        return await self.moves.start(MoveRequest.model_validate({"vm": name, "host": "h2", **options}))

    def states(self) -> dict[str, str]:
        """By VM; the newest task of each counts."""
        return {task.vm: str(task.state) for task in reversed(self.book.all())}

    def of(self, name: str) -> Task:
        return next(task for task in self.book.all() if task.vm == name)

    async def is_so(self, **states: str) -> None:
        await eventually(lambda: states.items() <= self.states().items())

    async def finish(self, name: str) -> None:
        """The move of that VM completes."""
        task = self.of(name)
        assert task.plan is not None
        move_id = task.plan.move_id
        await eventually(lambda: move_id in self.h1.moves)
        done = samples.completed().model_copy(update={"move_id": task.plan.move_id, "plan": task.plan})
        self.h1.tell(done)


def _uuid(name: str) -> UUID:
    return UUID(int=NAMES.index(name) + 1)


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(follow, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(turns, "POSTPONED_SECONDS", 0.01)
    monkeypatch.setattr("kvmove.manager.moves.QUEUE_SECONDS", 0.02)
    site = Site(tmp_path)
    for name in NAMES:
        await site.registry.claim(_uuid(name), "h1")
    await site.open()
    yield site
    await site.close()
    await site.registry.close()


async def all_asked(site: Site) -> None:
    for name in NAMES:
        await site.ask(name)
    await site.is_so(vm1="running", vm2="running", vm3="queued", vm4="queued")


async def test_two_run_and_the_others_know_their_place_and_why(site: Site) -> None:
    await all_asked(site)
    third, fourth = site.of("vm3"), site.of("vm4")
    assert (third.position, fourth.position) == (1, 2)
    assert third.queue_reason == "waits for h1: 8 of 8 units are taken by moves of vm1 and vm2"
    assert third.started is None
    assert len(site.h1.started) == 2


async def test_when_one_ends_the_next_begins_at_once(site: Site) -> None:
    await all_asked(site)
    await site.finish("vm2")
    await site.is_so(vm2="succeeded", vm3="running", vm4="queued")
    await eventually(lambda: site.of("vm4").position == 1)
    assert (site.of("vm3").position, site.of("vm3").queue_reason) == (None, "")
    await eventually(lambda: [plan.vm.name for plan, _ in site.h1.started] == ["vm1", "vm2", "vm3"])


async def test_a_part_of_a_task_that_has_ended_does_not_begin(site: Site) -> None:
    fields = {"id": "f" * 16, "kind": "balance", "vm": "", "plan": None, "state": TaskState.RUNNING}
    whole = samples.task().model_copy(update=fields)
    await site.book.add(whole)
    await site.ask("vm1")
    await site.ask("vm2")
    await site.moves.start(MoveRequest(vm="vm3", host="h2"), parent=whole.id)
    await site.book.change(whole.id, state=TaskState.CANCELLED)
    await site.finish("vm1")
    await site.is_so(vm1="succeeded", vm2="running", vm3="cancelled")
    assert "a part of" in str((site.of("vm3").problem or {})["detail"])


async def test_a_vm_has_one_move_queued_ones_counted(site: Site) -> None:
    await all_asked(site)
    with pytest.raises(Busy, match="vm4 has a move that is queued"):
        await site.ask("vm4")


async def test_higher_priority_goes_first_also_when_it_is_set_later(site: Site) -> None:
    await all_asked(site)
    changed = await site.moves.change(site.of("vm4"), TaskChange(priority=Priority.HIGH))
    assert (changed.priority, changed.position) == (Priority.HIGH, 1)
    await site.finish("vm1")
    await site.is_so(vm4="running", vm3="queued")
    with pytest.raises(Busy, match="is running"):
        await site.moves.change(site.of("vm4"), TaskChange(priority=Priority.LOW))


async def test_a_queued_move_is_cancelled_at_once_and_no_agent_hears_of_it(site: Site) -> None:
    await all_asked(site)
    ended = await site.moves.cancel(site.of("vm3"))
    assert (ended.state, ended.vm_state, ended.position) == (TaskState.CANCELLED, "running on h1", None)
    await site.finish("vm1")
    await site.is_so(vm4="running", vm3="cancelled")
    assert site.h1.cancelled == []


async def test_a_restarted_manager_has_its_queue_and_its_running_moves(site: Site) -> None:
    await all_asked(site)
    before = [(task.id, task.state) for task in site.book.all()]
    await site.close()
    await site.open()
    assert [(task.id, task.state) for task in site.book.all()] == before
    await site.finish("vm1")
    await site.is_so(vm1="succeeded", vm2="running", vm3="running", vm4="queued")


async def test_a_move_that_no_agent_had_begun_when_the_manager_died_waits_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = site.h1.start_move

    async def died(plan: MovePlan, ticket: str) -> MoveStatus:
        raise Unreachable("the manager died before it asked")

    monkeypatch.setattr(site.h1, "start_move", died)
    task = await site.ask("vm1")
    await site.close()
    monkeypatch.setattr(site.h1, "start_move", begin)
    await site.open()
    await eventually(lambda: len(site.h1.started) == 1)
    again = site.book.get(task.id)
    assert again.plan is not None
    assert again.plan.move_id != task.id
    await site.finish("vm1")
    await site.is_so(vm1="succeeded")


async def test_what_blocks_it_when_its_turn_comes_ends_it_with_the_reason(site: Site) -> None:
    await all_asked(site)
    crashed = samples.vm(definition=samples.definition("vm3", _uuid("vm3")), state=VmState.CRASHED)
    site.h1.status_of_vms[2] = crashed
    await site.finish("vm1")
    await site.is_so(vm3="failed", vm4="running")
    problem = site.of("vm3").problem or {}
    assert "vm3 is crashed" in str(problem["detail"])


async def test_where_the_vm_is_stays_true_while_its_move_waits(site: Site) -> None:
    await all_asked(site)
    assert site.of("vm4").vm_state == "running on h1"
    site.h1.status_of_vms[3] = site.h1.status_of_vms[3].model_copy(update={"state": VmState.PAUSED})
    await site.inventory.refresh()
    await eventually(lambda: site.of("vm4").vm_state == "paused on h1")


async def test_a_move_waits_for_its_time_and_holds_nobody_up(site: Site) -> None:
    waits = await site.ask("vm1", at="22:00")
    assert (waits.position, waits.queue_reason) == (None, "waits for its time, 2026-11-23 22:00")
    for name in ("vm2", "vm3"):
        assert (await site.ask(name)).state is TaskState.RUNNING
    await site.finish("vm2")
    await site.is_so(vm2="succeeded")
    assert site.of("vm1").state is TaskState.QUEUED
    site.now += timedelta(hours=14)
    await site.is_so(vm1="running")


async def test_a_move_waits_for_its_window_and_then_runs_to_its_end(site: Site) -> None:
    waits = await site.ask("vm1", window="22:00-06:00")
    assert waits.queue_reason == "waits for its window 22:00-06:00, which opens at 2026-11-23 22:00"
    site.now += timedelta(hours=15)
    await site.is_so(vm1="running")
    site.now += timedelta(hours=15)
    await site.finish("vm1")
    await site.is_so(vm1="succeeded")


async def test_a_silent_host_is_waited_for(site: Site) -> None:
    await all_asked(site)
    site.h2.down = True
    await site.inventory.refresh()
    await eventually(lambda: "waits for h2, which does not answer" in site.of("vm3").queue_reason)
    await site.finish("vm1")
    await site.is_so(vm1="succeeded", vm3="queued")
    site.h2.down = False
    site.inventory._hosts["h2"].reason = ""
    await site.is_so(vm3="running")


async def test_a_registry_that_does_not_answer_keeps_its_turn_for_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await all_asked(site)
    real = site.registry.get

    async def silent(vm: UUID) -> Ownership | None:
        raise Unreachable("the registry is down")

    monkeypatch.setattr(site.registry, "get", silent)
    await site.finish("vm1")
    await eventually(lambda: "the registry is down" in site.of("vm3").queue_reason)
    monkeypatch.setattr(site.registry, "get", real)
    await eventually(lambda: list(site.states().values()).count("running") == 2)


async def test_a_retry_is_a_new_task_of_the_same_request(site: Site) -> None:
    site.h1.refusal = MoveFailed("not now")
    with pytest.raises(MoveFailed):
        await site.ask("vm1", priority="high")
    site.h1.refusal = None
    failed = site.of("vm1")
    again = await site.moves.retry(failed, by="ann")
    assert again.id != failed.id
    assert (again.state, again.priority, again.started_by) == (TaskState.RUNNING, Priority.HIGH, "ann")
    assert again.request == failed.request
    with pytest.raises(Busy, match="and not over"):
        await site.moves.retry(again)
    with pytest.raises(NotFound, match="does not say what it was asked for"):
        await site.moves.retry(failed.model_copy(update={"request": None}))


async def test_a_log_has_the_lines_of_all_by_time_and_outlives_the_agents(site: Site) -> None:
    task = await site.ask("vm1")
    for agent, second in ((site.h1, 2), (site.h2, 1)):
        line = LogLine(time=f"2026-11-23T08:00:0{second}.000+00:00", place=agent.ref.name, level="INFO", text="hello")
        agent.logs[task.id] = [line]
    assert [line.place for line in await site.moves.log(task)] == ["h2", "h1"]
    await site.finish("vm1")
    await site.is_so(vm1="succeeded")
    kept = TaskStore(site.folder / "tasks.db")
    await eventually(lambda: kept.log(task.id) is not None)
    kept.close()
    site.h1.down = site.h2.down = True
    assert [line.place for line in await site.moves.log(site.of("vm1"))] == ["h2", "h1"]


async def test_a_silent_agents_part_of_the_log_is_named_as_missing(site: Site) -> None:
    task = await site.ask("vm1")
    site.h2.down = True
    assert "h2 gave no log" in (await site.moves.log(task))[-1].text
