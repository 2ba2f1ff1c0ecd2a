"""Starting, following and cancelling moves, over agents that do as they are told and a real registry."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvmove.errors import Busy, Cancelled, CheckFailed, KvmoveError, MoveFailed, NotFound, Unreachable
from kvmove.manager import follow, verdict
from kvmove.manager.follow import Follower
from kvmove.manager.inventory import Inventory
from kvmove.manager.moves import Moves
from kvmove.manager.task_book import TaskBook
from kvmove.manager.task_store import TaskStore
from kvmove.model.move import MovePlan, MoveRequest, MoveStatus, Phase
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import VmState
from kvmove.registry import ownership
from kvmove.registry.sqlite import SqliteRegistry
from tests.support import samples
from tests.support.eventually import eventually
from tests.support.fake_agent import FakeAgent
from tests.support.samples import H1, H2, WEB1

REQUEST = MoveRequest(vm="web1", host="h2")


class Site:
    """A manager's parts over two hosts; web1 runs on h1. `restart` is what a manager's end and next start leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agents = {ref.name: FakeAgent(ref) for ref in (H1, H2)}
        self.h1, self.h2 = self.agents.values()
        self.h1.status_of_vms = [samples.vm()]
        self.registry = SqliteRegistry(folder / "registry.db")

    async def open(self) -> None:
        self.book = await TaskBook(TaskStore(self.folder / "tasks.db")).open()
        self.inventory = Inventory([H1, H2], lambda ref: self.agents[ref.name])
        self.moves = Moves(self.inventory, self.registry, self.book, Follower(self.inventory, self.registry, self.book))
        self.moves.resume()

    async def close(self) -> None:
        await self.moves.close()
        await self.book.close()

    async def restart(self) -> None:
        await self.close()
        await self.open()

    def task(self) -> Task:
        return self.book.all()[0]

    async def ended(self) -> Task:
        await eventually(lambda: self.task().ended_state)
        return self.task()

    def tell(self, status: MoveStatus) -> None:
        """The source's agent has news of the move under way."""
        task = self.task()
        self.h1.tell(status.model_copy(update={"move_id": task.id, "plan": task.plan}))

    async def hand_over(self) -> None:
        """The VM now belongs to h2 and runs there, as after a commit."""
        record = await self.registry.get(WEB1)
        assert record is not None
        begun = await self.registry.swap(record, ownership.begin(record, self.task().id, "h2"))
        await self.registry.swap(begun, ownership.commit(begun, self.task().id, "h2"))
        self.h2.status_of_vms = [samples.vm("h2", epoch=2)]


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(follow, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(verdict, "SOURCE_GRACE_SECONDS", 0.05)
    monkeypatch.setattr(verdict, "LOST_GRACE_SECONDS", 0.05)
    site = Site(tmp_path)
    await site.registry.claim(WEB1, "h1")
    await site.open()
    yield site
    await site.close()
    await site.registry.close()


async def test_a_check_gives_the_plan_and_changes_nothing(site: Site) -> None:
    checked = await site.moves.check(REQUEST)
    assert (checked.plan.source, checked.plan.destination, checked.plan.epoch) == (H1, H2, 1)
    assert site.book.all() == []
    assert site.h1.started == []
    assert site.h2.expected == []


async def test_a_start_tells_the_destination_first_and_both_the_same(site: Site) -> None:
    task = await site.moves.start(REQUEST)
    assert site.h2.expected == site.h1.started
    ((plan, ticket),) = site.h1.started
    assert plan == task.plan
    assert plan.move_id == task.id
    assert len(bytes.fromhex(ticket)) == 32


async def test_the_source_is_not_told_when_the_destination_refuses(site: Site) -> None:
    site.h2.refusal = MoveFailed("no memory")
    with pytest.raises(MoveFailed) as caught:
        await site.moves.start(REQUEST)
    assert caught.value.vm_state == "running on h1"
    assert site.h1.started == []
    assert (site.task().state, site.task().vm_state) == (TaskState.FAILED, "running on h1")
    assert (site.task().problem or {})["detail"] == "no memory"


async def test_a_refused_start_leaves_the_vm_free_for_another(site: Site) -> None:
    site.h1.refusal = MoveFailed("not now")
    with pytest.raises(MoveFailed):
        await site.moves.start(REQUEST)
    site.h1.refusal = None
    await site.moves.start(REQUEST)


async def test_every_blocker_is_named_at_once_and_nothing_begins(site: Site) -> None:
    site.h1.status_of_vms = [samples.vm(state=VmState.CRASHED)]
    with pytest.raises(CheckFailed, match=r"web1 is crashed.*"):
        await site.moves.start(REQUEST)
    assert site.book.all() == []


@pytest.mark.parametrize("request_", [MoveRequest(vm="web9", host="h2"), MoveRequest(vm="web1", host="h9")])
async def test_a_vm_or_host_that_is_not_there_is_not_found(site: Site, request_: MoveRequest) -> None:
    with pytest.raises(NotFound):
        await site.moves.start(request_)


async def test_of_two_requests_at_once_one_starts_and_one_is_busy(site: Site) -> None:
    results = await asyncio.gather(*(site.moves.start(REQUEST) for _ in range(5)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Busy", "Busy", "Busy", "Busy", "Task"]
    assert len(site.h1.started) == 1


async def test_while_it_moves_a_second_request_is_busy_and_says_which_move(site: Site) -> None:
    task = await site.moves.start(REQUEST)
    for ask in (site.moves.start, site.moves.check):
        with pytest.raises(Busy) as caught:
            await ask(REQUEST)
        assert task.id in caught.value.hint


async def test_a_move_that_another_began_is_busy_too(site: Site) -> None:
    record = await site.registry.get(WEB1)
    assert record is not None
    await site.registry.swap(record, ownership.begin(record, "foreign", "h2"))
    with pytest.raises(Busy, match="foreign"):
        await site.moves.start(REQUEST)


async def test_the_task_follows_the_source_to_success_with_its_report(site: Site) -> None:
    await site.moves.start(REQUEST)
    site.tell(samples.status(Phase.COPYING_MEMORY, 80.0).model_copy(update={"vm_state": "almost there"}))
    await eventually(lambda: site.task().vm_state == "almost there")
    assert site.task().progress == samples.progress(Phase.COPYING_MEMORY, 80.0)
    site.tell(samples.completed())
    task = await site.ended()
    assert (task.state, task.vm_state, task.report) == (TaskState.SUCCEEDED, "running on h2", samples.report())
    assert task.ended is not None


@pytest.mark.parametrize(
    ("error", "state"), [(MoveFailed("no space"), TaskState.FAILED), (Cancelled("as asked"), TaskState.CANCELLED)]
)
async def test_the_task_ends_as_the_source_says(site: Site, error: KvmoveError, state: TaskState) -> None:
    await site.moves.start(REQUEST)
    site.tell(samples.status(Phase.ABORTED, outcome=Phase.ABORTED, problem=error.problem()))
    task = await site.ended()
    assert (task.state, task.problem) == (state, error.problem())


async def test_a_source_that_is_silent_for_a_while_is_asked_until_it_answers(site: Site) -> None:
    await site.moves.start(REQUEST)
    await eventually(lambda: site.task().progress is not None)
    site.h1.down = True
    site.h1.wake()
    await eventually(lambda: "no word" in (site.task().progress or samples.progress()).message)
    assert site.task().vm_state == "belongs to h1, which does not answer"
    site.h1.down = False
    site.tell(samples.completed())
    assert (await site.ended()).state is TaskState.SUCCEEDED


async def test_with_a_dead_source_the_registry_and_the_destination_prove_success(site: Site) -> None:
    await site.moves.start(REQUEST)
    await site.hand_over()
    site.h1.down = True
    site.h1.wake()
    task = await site.ended()
    assert (task.state, task.vm_state, task.report) == (TaskState.SUCCEEDED, "running on h2", None)


async def test_a_lost_answer_to_the_start_is_followed_not_called_a_failure(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = site.h1.start_move

    async def begin_and_lose_the_answer(plan: MovePlan, ticket: str) -> None:
        await begin(plan, ticket)
        raise Unreachable("gave no answer in time")

    monkeypatch.setattr(site.h1, "start_move", begin_and_lose_the_answer)
    assert (await site.moves.start(REQUEST)).state is TaskState.RUNNING
    site.tell(samples.completed())
    assert (await site.ended()).state is TaskState.SUCCEEDED


async def test_a_start_that_never_arrived_ends_as_failed(site: Site) -> None:
    site.h1.refusal = Unreachable("gave no answer in time")
    await site.moves.start(REQUEST)
    task = await site.ended()
    assert task.state is TaskState.FAILED
    assert "never began" in str((task.problem or {})["detail"])


async def test_a_restarted_manager_picks_the_move_up_again(site: Site) -> None:
    started = await site.moves.start(REQUEST)
    await eventually(lambda: site.task().progress is not None)
    revision = site.task().revision
    await site.restart()
    assert site.task().id == started.id
    assert site.task().revision > revision
    site.tell(samples.completed())
    assert (await site.ended()).state is TaskState.SUCCEEDED


async def test_a_move_that_ended_while_the_manager_was_away_is_told_as_it_ended(site: Site) -> None:
    await site.moves.start(REQUEST)
    await site.close()
    site.tell(samples.completed())
    await site.open()
    assert (await site.ended()).report == samples.report()


async def test_cancelling_asks_the_source_and_the_task_ends_when_it_is_done(site: Site) -> None:
    task = await site.moves.start(REQUEST)
    assert (await site.moves.cancel(task)).state is TaskState.RUNNING
    assert site.h1.cancelled == [task.id]


async def test_cancelling_what_has_ended_is_busy(site: Site) -> None:
    await site.moves.start(REQUEST)
    site.tell(samples.completed())
    with pytest.raises(Busy, match="has ended already: succeeded"):
        await site.moves.cancel(await site.ended())


async def test_the_ticket_is_nowhere_but_with_the_agents(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    task = await site.moves.start(REQUEST)
    site.tell(samples.completed())
    await site.ended()
    ((_, ticket),) = site.h1.started
    await site.book.close()
    kept = b"".join(path.read_bytes() for path in site.folder.iterdir())
    assert task.id.encode() in kept
    assert ticket.encode() not in kept
    assert ticket not in caplog.text
    assert ticket not in site.task().model_dump_json()
    await site.open()


async def test_a_fault_of_ours_while_following_is_logged_and_following_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kvmove.manager.moves._AFTER_FAULT_SECONDS", 0.01)
    real = site.h1.move
    faults = iter([ZeroDivisionError("planted")])

    async def once_faulty(move_id: str) -> MoveStatus:
        for fault in faults:
            raise fault
        return await real(move_id)

    monkeypatch.setattr(site.h1, "move", once_faulty)
    await site.moves.start(REQUEST)
    site.tell(samples.completed())
    assert (await site.ended()).state is TaskState.SUCCEEDED
    assert "planted" in caplog.text
