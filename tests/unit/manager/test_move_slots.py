"""Two managers over one registry: together their moves stay within the limits, and what does not run holds nothing."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import pytest

from kvmove.errors import MoveFailed, Unreachable
from kvmove.manager import follow, turns
from kvmove.manager.follow import Follower
from kvmove.manager.inventory import Inventory
from kvmove.manager.moves import Moves
from kvmove.manager.task_book import TaskBook
from kvmove.manager.task_store import TaskStore
from kvmove.manager.turns import Turns
from kvmove.model.finding import Severity
from kvmove.model.move import MovePlan, MoveRequest, MoveStatus
from kvmove.model.task import Task, TaskState
from kvmove.registry.leased_slots import LeasedSlots
from kvmove.registry.slots import Want
from kvmove.registry.sqlite import SqliteRegistry, SqliteSlots
from tests.support import samples
from tests.support.eventually import eventually
from tests.support.fake_agent import FakeAgent
from tests.support.samples import H1, H2

NAMES = ("vm1", "vm2", "vm3", "vm4")
OTHERS = "waits for h1: 8 of 8 units are taken by moves of another manager"


class Site:
    """Four VMs on h1, of which two may move at once, whichever manager is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agents = {ref.name: FakeAgent(ref) for ref in (H1, H2)}
        self.h1, self.h2 = self.agents.values()
        self.h1.status_of_vms = [samples.vm(definition=samples.definition(name, _uuid(name))) for name in NAMES]
        self.registry = SqliteRegistry(folder / "registry.db")

    async def finish(self, task: Task) -> None:
        """The move completes."""
        plan = task.plan
        assert plan is not None
        await eventually(lambda: plan.move_id in self.h1.moves)
        self.h1.tell(samples.completed().model_copy(update={"move_id": plan.move_id, "plan": plan}))


class Manager:
    """One manager of the site, with a task book of its own."""

    def __init__(self, site: Site, name: str) -> None:
        self.site, self.name = site, name

    async def open(self) -> None:
        site = self.site
        self.book = await TaskBook(TaskStore(site.folder / f"{self.name}.db")).open()
        inventory = Inventory([H1, H2], lambda ref: site.agents[ref.name])
        self.slots = LeasedSlots(SqliteSlots(site.folder / "registry.db"))
        self.moves = Moves(
            inventory, site.registry, self.book, Follower(inventory, site.registry, self.book),
            Turns(self.book, inventory, slots=self.slots),
        )  # fmt: skip
        await inventory.refresh()
        self.moves.resume()

    async def close(self) -> None:
        await self.moves.close()
        await self.book.close()
        await self.slots.close()

    async def ask(self, name: str) -> Task:
        return await self.moves.start(MoveRequest(vm=name, host="h2"))

    async def becomes(self, task: Task, state: str) -> Task:
        await eventually(lambda: self.book.get(task.id).state == state)
        return self.book.get(task.id)

    async def holders(self) -> set[str]:
        return set((await self.slots.taken()).get("host/h1", {}))

    async def hold(self, *tasks: Task) -> None:
        """Return once these moves hold units of h1, and no others."""
        async with asyncio.timeout(30):
            for _ in itertools.count():
                if await self.holders() == {task.id for task in tasks}:
                    return
                await asyncio.sleep(0.01)


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
    yield site
    await site.registry.close()


@pytest.fixture
async def managers(site: Site) -> AsyncIterator[tuple[Manager, Manager]]:
    async with AsyncExitStack() as stack:
        both = Manager(site, "one"), Manager(site, "other")
        for manager in both:
            await manager.open()
            stack.push_async_callback(manager.close)
        yield both


async def test_two_managers_share_the_room(site: Site, managers: tuple[Manager, Manager]) -> None:
    one, other = managers
    first, second = await one.ask("vm1"), await one.ask("vm2")
    third = await other.ask("vm3")
    assert (third.state, third.queue_reason, third.position) == (TaskState.QUEUED, OTHERS, None)
    assert len(site.h1.started) == 2
    await site.finish(first)
    third = await other.becomes(third, "running")
    await one.hold(second, third)
    fourth = await one.ask("vm4")
    assert fourth.queue_reason == "waits for h1: 8 of 8 units are taken, 4 of them by moves of another manager"
    await site.finish(third)
    await one.hold(second, await one.becomes(fourth, "running"))


async def test_what_was_refused_by_an_agent_holds_nothing(site: Site, managers: tuple[Manager, Manager]) -> None:
    one, _ = managers
    site.h1.refusal = MoveFailed("not now")
    with pytest.raises(MoveFailed):
        await one.ask("vm1")
    assert await one.holders() == set()


async def test_what_is_cancelled_as_it_takes_its_room_holds_nothing(
    site: Site, managers: tuple[Manager, Manager], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = managers
    take = one.slots.take

    async def cancelled(holder: str, wants: Mapping[str, Want]) -> bool:
        taken = await take(holder, wants)
        await one.moves.cancel(one.book.get(holder))
        return taken

    monkeypatch.setattr(one.slots, "take", cancelled)
    assert (await one.ask("vm1")).state is TaskState.CANCELLED
    assert await one.holders() == set()
    assert site.h1.started == []


async def test_a_registry_that_is_away_keeps_moves_from_beginning_and_no_more(
    site: Site, managers: tuple[Manager, Manager], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = managers
    runs = await one.ask("vm1")

    async def away(*_: object, **__: object) -> None:
        raise Unreachable("etcd gives no answer")

    with monkeypatch.context() as silent:
        for name in ("put", "drop", "held", "renew", "new_lease"):
            silent.setattr(one.slots._store, name, away)
        waits = await one.ask("vm2")
        assert (waits.state, waits.queue_reason) == (TaskState.QUEUED, "waits for an answer: etcd gives no answer")
        await site.finish(runs)
        await one.becomes(runs, "succeeded")
    await one.becomes(waits, "running")


async def test_a_restarted_manager_holds_what_runs_and_gives_it_back_at_its_end(
    site: Site, managers: tuple[Manager, Manager], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = managers
    first, second = await one.ask("vm1"), await one.ask("vm2")
    await one.close()
    for task in (first, second):  # as if the lease had ended meanwhile
        await other.slots.release(task.id)
    await other.hold()
    await one.open()
    await other.hold(first, second)
    assert (await other.ask("vm3")).queue_reason == OTHERS
    await site.finish(first)
    await one.becomes(first, "succeeded")
    await eventually(lambda: len(site.h1.started) == 3)


async def test_a_move_that_ended_before_its_room_was_noted_anew_holds_nothing(
    site: Site, managers: tuple[Manager, Manager], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = managers
    task = await one.ask("vm1")
    await one.close()
    answers, noted = asyncio.Event(), list[str]()
    keep = LeasedSlots.keep

    async def late(slots: LeasedSlots, holder: str, units: Mapping[str, int]) -> None:
        await answers.wait()
        await keep(slots, holder, units)
        noted.append(holder)

    monkeypatch.setattr(LeasedSlots, "keep", late)
    await site.finish(task)
    await one.open()
    await one.becomes(task, "succeeded")
    answers.set()
    await eventually(lambda: noted == [task.id])
    await other.hold()


async def test_a_move_that_waits_again_after_a_restart_takes_its_room_anew(
    site: Site, managers: tuple[Manager, Manager], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = managers

    async def died(plan: MovePlan, ticket: str) -> MoveStatus:
        raise Unreachable("the manager died before it asked")

    with monkeypatch.context() as dying:
        dying.setattr(site.h1, "start_move", died)
        task = await one.ask("vm1")
        await one.close()
    full = [await other.ask("vm2")]
    await other.slots.release(task.id)
    full.append(await other.ask("vm3"))
    await one.open()
    waits = await one.becomes(task, "queued")
    await eventually(lambda: one.book.get(waits.id).queue_reason == OTHERS)
    await other.hold(*full)
    await site.finish(full[0])
    await one.becomes(task, "running")


async def test_a_check_warns_of_a_queue_and_a_ranking_too(site: Site, managers: tuple[Manager, Manager]) -> None:
    one, other = managers
    request = MoveRequest(vm="vm3", host="h2")
    assert (await one.moves.check(request)).findings == ()
    for name in ("vm1", "vm2"):
        await one.ask(name)
    own = "waits for h1: 8 of 8 units are taken by moves of vm1 and vm2"
    for manager, reason in ((one, own), (other, OTHERS)):
        (found,) = (await manager.moves.check(request)).findings
        assert (found.code, found.severity) == ("would-be-queued", Severity.WARNING)
        assert found.what == f"the move would be queued now: {reason}"
        (ranked,) = (await manager.moves.rank(MoveRequest(vm="vm3"))).hosts
        assert ranked.findings == (found,)
        assert ranked.plan is not None
    later = request.model_copy(update={"at": "22:00"})
    assert (await one.moves.check(later)).findings == ()
