"""A change in the registry, whoever made it, makes the manager look at the hosts that it concerns, and at no others."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvmove.manager.inventory import Inventory
from kvmove.manager.ownership_news import keep_fresh
from kvmove.model.move import HostRef
from kvmove.registry import ownership
from kvmove.registry.sqlite import SqliteRegistry
from tests.support.eventually import eventually
from tests.support.fake_agent import FakeAgent
from tests.support.samples import WEB1, vm

HOSTS = [HostRef(name=f"h{number}", control=f"10.0.0.{number}:7441") for number in (1, 2, 3)]


class World:
    """The agents, and a manager that looks at nothing by itself."""

    def __init__(self, registry: SqliteRegistry) -> None:
        self.registry = registry
        self.agents = {ref.name: FakeAgent(ref) for ref in HOSTS}
        self.inventory = Inventory(HOSTS, lambda ref: self.agents[ref.name], poll_seconds=3600)

    def place(self) -> list[str]:
        return [seen.host for seen in self.inventory.vms()]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    registry = SqliteRegistry(tmp_path / "registry.db")
    there = World(registry)
    watching = asyncio.create_task(keep_fresh(registry, there.inventory))
    yield there
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await there.inventory.close()
    await registry.close()


async def test_a_vm_that_another_manager_moved_is_seen_at_its_new_host(world: World) -> None:
    world.agents["h1"].status_of_vms = [vm("h1")]
    owned = await world.registry.claim(WEB1, "h1")
    await eventually(lambda: world.place() == ["h1"])
    world.agents["h1"].status_of_vms, world.agents["h2"].status_of_vms = [], [vm("h2")]
    moving = await world.registry.swap(owned, ownership.begin(owned, "m1", "h2"))
    there = await world.registry.swap(moving, ownership.commit(moving, "m1", "h2"))
    await eventually(lambda: world.place() == ["h2"])
    world.agents["h2"].status_of_vms = []
    await world.registry.release(there)
    await eventually(lambda: world.place() == [])
    assert world.agents["h3"].asked == 0
