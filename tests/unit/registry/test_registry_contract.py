"""One contract for both engines of the registry, SQLite and a real etcd: each asked itself, and through the manager."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
from fastapi import FastAPI

from kvmove.errors import Busy, InvalidInput, Unreachable
from kvmove.manager.answers import add_handlers
from kvmove.manager.peer import peer_of
from kvmove.manager.registry_routes import registry_router
from kvmove.model.ownership import Ownership
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.identity import Identity, Role
from kvmove.registry import ownership
from kvmove.registry.etcd import EtcdRegistry
from kvmove.registry.interface import Registry
from kvmove.registry.remote import RemoteRegistry
from kvmove.registry.sqlite import SqliteRegistry
from tests.support.etcd_members import EtcdMembers
from tests.support.tls_application import serve

VM, OTHER = UUID(int=1), UUID(int=2)
HOSTS = ("h1", "h2", "h3")

AsHost = Callable[[str], Registry]
"""Gives the registry as the agent of a host sees it."""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    create_authority(tmp_path / "ca")
    issue(tmp_path / "ca", Identity(Role.MANAGER, "manager"), tmp_path / "manager")
    for host in HOSTS:
        issue(tmp_path / "ca", Identity(Role.AGENT, host), tmp_path / host)
    return tmp_path


@asynccontextmanager
async def remote_engine(cluster: Path, kept_in: Registry) -> AsyncIterator[AsHost]:
    app = FastAPI()
    add_handlers(app)
    app.include_router(registry_router(kept_in, peer_of))
    async with serve(app, cluster / "manager") as port, AsyncExitStack() as stack:
        engines = {host: RemoteRegistry(f"https://127.0.0.1:{port}", cluster / host) for host in HOSTS}
        for engine in engines.values():
            stack.push_async_callback(engine.close)
        yield lambda host: engines[host]


def engine(name: str, cluster: Path, request: pytest.FixtureRequest) -> Registry:
    """A registry without any record. Only the tests on etcd need one."""
    if name == "sqlite":
        return SqliteRegistry(cluster / "registry.db")
    members: EtcdMembers = request.getfixturevalue("etcd")
    prefix: str = request.getfixturevalue("prefix")
    return EtcdRegistry(members.endpoints, prefix, members.tls, timeout=30)


@pytest.fixture(params=["sqlite", "sqlite through the manager", "etcd", "etcd through the manager"])
async def as_host(request: pytest.FixtureRequest, cluster: Path) -> AsyncIterator[AsHost]:
    name, _, through_manager = request.param.partition(" ")
    kept = engine(name, cluster, request)
    try:
        if through_manager:
            async with remote_engine(cluster, kept) as engines:
                yield engines
        else:
            yield lambda _host: kept
    finally:
        await kept.close()


async def test_a_vm_that_nobody_claimed_has_no_record(as_host: AsHost) -> None:
    assert await as_host("h1").get(VM) is None
    assert await as_host("h1").list() == []


async def test_a_claim_registers_the_vm_under_its_first_epoch(as_host: AsHost) -> None:
    record = await as_host("h1").claim(VM, "h1")
    assert record == Ownership(vm=VM, owner="h1", epoch=1)
    assert await as_host("h2").get(VM) == record
    assert await as_host("h1").claim(VM, "h1") == record
    with pytest.raises(Busy, match="owned by h1"):
        await as_host("h2").claim(VM, "h2")


async def test_all_records_are_listed_in_order(as_host: AsHost) -> None:
    second = await as_host("h1").claim(OTHER, "h1")
    first = await as_host("h2").claim(VM, "h2")
    assert await as_host("h3").list() == [first, second]


async def test_a_move_goes_through_all_its_events(as_host: AsHost) -> None:
    owned = await as_host("h1").claim(VM, "h1")
    moving = ownership.begin(owned, "m1", "h2")
    assert await as_host("h1").swap(owned, moving) == moving
    assert await as_host("h2").get(VM) == moving
    committed = await as_host("h2").swap(moving, ownership.commit(moving, "m1", "h2"))
    assert (committed.owner, committed.epoch) == ("h2", 2)
    back = await as_host("h2").swap(committed, ownership.take_back(committed, "h1"))
    assert (back.owner, back.epoch) == ("h1", 3)
    assert await as_host("h1").get(VM) == back


async def test_of_commit_and_abort_the_first_wins_and_the_other_changes_nothing(as_host: AsHost) -> None:
    owned = await as_host("h1").claim(VM, "h1")
    moving = await as_host("h1").swap(owned, ownership.begin(owned, "m1", "h2"))
    aborted = await as_host("h1").swap(moving, ownership.abort(moving, "m1"))
    with pytest.raises(Busy, match="epoch 2"):
        await as_host("h2").swap(moving, ownership.commit(moving, "m1", "h2"))
    assert await as_host("h1").get(VM) == aborted


async def test_of_many_at_once_exactly_one_wins(as_host: AsHost) -> None:
    owned = await as_host("h1").claim(VM, "h1")
    moves = [ownership.begin(owned, f"m{number}", "h2") for number in range(8)]
    answers = await asyncio.gather(*(as_host("h1").swap(owned, move) for move in moves), return_exceptions=True)
    winners = [answer for answer in answers if isinstance(answer, Ownership)]
    assert len(winners) == 1 and await as_host("h1").get(VM) == winners[0]
    assert all(isinstance(answer, Ownership | Busy) for answer in answers)


async def test_a_change_that_no_event_makes_is_invalid(as_host: AsHost) -> None:
    owned = await as_host("h1").claim(VM, "h1")
    with pytest.raises(InvalidInput):
        await as_host("h1").swap(owned, owned.model_copy(update={"epoch": 5}))
    with pytest.raises(InvalidInput):
        await as_host("h1").swap(owned, owned)


async def test_a_swap_of_a_vm_that_is_not_registered_is_refused(as_host: AsHost) -> None:
    owned = ownership.first(VM, "h1")
    with pytest.raises(Busy, match="not registered"):
        await as_host("h1").swap(owned, ownership.begin(owned, "m1", "h2"))
    assert await as_host("h1").get(VM) is None


async def test_a_released_vm_is_forgotten_but_its_epoch_is_not(as_host: AsHost) -> None:
    """A request from the former life finds no record that it matches."""
    owned = await as_host("h1").claim(VM, "h1")
    stale = ownership.begin(owned, "m1", "h2")
    with pytest.raises(Busy):
        await as_host("h1").release(owned.model_copy(update={"epoch": 2}))
    await as_host("h1").release(owned)
    assert await as_host("h1").get(VM) is None
    again = await as_host("h1").claim(VM, "h1")
    assert again.epoch == 2
    with pytest.raises(Busy):
        await as_host("h1").swap(owned, stale)


async def test_a_vm_that_moves_cannot_be_released(as_host: AsHost) -> None:
    owned = await as_host("h1").claim(VM, "h1")
    moving = await as_host("h1").swap(owned, ownership.begin(owned, "m1", "h2"))
    with pytest.raises(Busy, match="cannot be released"):
        await as_host("h1").release(moving)
    assert await as_host("h1").get(VM) == moving


async def test_a_closed_registry_cannot_tell(as_host: AsHost) -> None:
    registry = as_host("h1")
    await registry.close()
    await registry.close()
    with pytest.raises(Unreachable, match="closed"):
        await registry.get(VM)
