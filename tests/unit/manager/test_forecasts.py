"""A forecast asks all hosts at once, goes without those that do not answer, and is kept by the task it was for."""

from pathlib import Path

import pytest

from kvmove.errors import MoveFailed
from kvmove.manager import forecasts
from kvmove.manager.forecasts import GOOD_FOR_SECONDS, Forecasts
from kvmove.manager.inventory import Inventory
from kvmove.manager.task_book import TaskBook
from kvmove.manager.task_store import TaskStore
from kvmove.model.forecast import GuestSample
from kvmove.model.image import DiskImage
from kvmove.model.move import HostRef, MovePlan, MoveRequest
from kvmove.model.task import TaskState
from kvmove.model.vm import Power
from kvmove.units import GIB
from tests.support import samples
from tests.support.fake_agent import FakeAgent
from tests.support.samples import H1, H2
from tests.unit.manager.conftest import Served

REQUEST = MoveRequest(vm="web1", host="h2")


class Site:
    """Forecasts over two fake agents; `now` is the time."""

    def __init__(self, book: TaskBook) -> None:
        self.agents = {ref.name: FakeAgent(ref) for ref in (H1, H2)}
        self.h1, self.h2 = self.agents.values()
        self.h1.disk_images = [DiskImage(name="root", allocated=GIB)]
        self.now = 1000.0
        self.book = book
        inventory = Inventory([H1, H2], lambda ref: self.agents[ref.name])
        self.forecasts = Forecasts(inventory, book, lambda: self.now)


@pytest.fixture
async def site(tmp_path: Path) -> Site:
    return Site(await TaskBook(TaskStore(tmp_path / "tasks.db")).open())


async def test_each_host_is_asked_for_its_own_part(site: Site) -> None:
    found = await site.forecasts.of(REQUEST, samples.plan())
    assert sorted(site.h1.tries) == ["guest", "wire"]
    assert sorted(site.h2.tries) == ["expect", "storage"]
    assert found.converges
    assert GIB < found.bytes < 1.5 * GIB
    assert found.past_error is None


@pytest.mark.parametrize(
    ("change", "tries"),
    [
        ({"power": Power.OFF}, {"h1": ["guest", "wire"], "h2": ["expect", "storage"]}),
        ({"destination": HostRef(name="h1", control="x:1")}, {"h1": ["guest", "storage"], "h2": []}),
        ({"disks": ()}, {"h1": ["guest", "wire"], "h2": ["expect"]}),
    ],
    ids=["off", "storage", "host"],
)
async def test_nothing_is_tried_that_the_move_does_not_need(
    site: Site, change: dict[str, object], tries: dict[str, list[str]]
) -> None:
    await site.forecasts.of(REQUEST, samples.plan().model_copy(update=change))
    assert {name: sorted(agent.tries) for name, agent in site.agents.items()} == tries


async def test_a_host_that_does_not_answer_costs_certainty_and_no_error(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    sure = await site.forecasts.of(REQUEST, samples.plan())
    site.h2.down = True
    without = await site.forecasts.of(REQUEST, samples.plan())
    assert without.seconds_high - without.seconds_low > sure.seconds_high - sure.seconds_low
    assert "the wire was not tried" in without.why
    monkeypatch.setattr(forecasts, "SAMPLE_SECONDS", 0.05)
    site.h1.slow = True
    blind = await site.forecasts.of(REQUEST, samples.plan())
    assert blind.converges is None


async def test_an_agents_error_is_no_error_of_the_forecast(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(plan: MovePlan, ticket: str) -> GuestSample:
        raise MoveFailed("no")

    monkeypatch.setattr(site.h1, "sample_guest", broken)
    assert (await site.forecasts.of(REQUEST, samples.plan())).converges is None


async def test_a_forecast_is_recalled_once_for_its_own_request_and_not_for_long(site: Site) -> None:
    given = await site.forecasts.of(REQUEST, samples.plan())
    assert site.forecasts.recall(MoveRequest(vm="web1", host="h2", verify=True)) is None
    assert site.forecasts.recall(REQUEST) == given
    assert site.forecasts.recall(REQUEST) is None
    await site.forecasts.of(REQUEST, samples.plan())
    site.now += GOOD_FOR_SECONDS + 1
    assert site.forecasts.recall(REQUEST) is None


async def test_what_moves_really_took_is_heeded_and_told(site: Site) -> None:
    plain = await site.forecasts.of(REQUEST, samples.plan())
    slow = plain.model_copy(update={"parts": {name: value / 2 for name, value in plain.parts.items()}})
    real = samples.report().model_copy(update={"seconds": plain.seconds / 2})
    for number in range(5):
        done = samples.task(TaskState.SUCCEEDED, id=f"t{number}", forecast=slow, report=real, ended="x")
        await site.book.add(done)
    taught = await site.forecasts.of(REQUEST, samples.plan())
    assert taught.past_error == pytest.approx(1.0)
    assert taught.seconds > plain.seconds * 1.5
    assert taught.parts == plain.parts


async def test_only_who_asks_for_a_forecast_waits_for_one_and_the_task_keeps_it(served: Served) -> None:
    async with served.client() as manager:
        assert (await manager.check_move(REQUEST)).forecast is None
        assert served.h1.tries == []
        checked = await manager.check_move(REQUEST, forecast=True)
        assert checked.forecast is not None
        task = await manager.start_move(REQUEST)
        assert task.forecast == checked.forecast
        assert served.book.get(task.id).forecast == checked.forecast


async def test_a_move_that_nobody_forecast_starts_without(served: Served) -> None:
    async with served.client() as manager:
        assert (await manager.start_move(REQUEST)).forecast is None
    assert served.h1.tries == []
