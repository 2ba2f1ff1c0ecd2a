"""The registry over the network: whose certificate may do what, and answers that do not come."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from fastapi import FastAPI

from kvmove.errors import Busy, KvmoveError, NeedsAttention, NotAllowed, Unreachable
from kvmove.manager.answers import add_handlers
from kvmove.manager.peer import peer_of
from kvmove.manager.registry_routes import registry_router
from kvmove.model.ownership import Ownership
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.identity import Identity, Role
from kvmove.registry import ownership
from kvmove.registry.remote import RemoteRegistry
from kvmove.registry.settle import swap_until_known
from kvmove.registry.sqlite import SqliteRegistry
from tests.support.tls_application import serve

VM = UUID(int=1)


class Unlucky(SqliteRegistry):
    """A registry that can lose an answer after, or a request before, it took effect."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.lose: list[str] = []

    async def swap(self, expected: Ownership, new: Ownership) -> Ownership:
        fate = self.lose.pop(0) if self.lose else ""
        if fate == "request":
            raise Unreachable("lost on the way in")
        if fate == "disaster":
            raise KvmoveError("something burst")
        answer = await super().swap(expected, new)
        if fate == "answer":
            raise Unreachable("lost on the way out")
        if fate == "slow answer":
            await asyncio.sleep(3600)
        return answer

    async def get(self, vm: UUID) -> Ownership | None:
        if self.lose and self.lose[0] == "read":
            self.lose.pop(0)
            raise Unreachable("lost read")
        return await super().get(vm)


PARTIES = {
    "h1": Identity(Role.AGENT, "h1"),
    "h2": Identity(Role.AGENT, "h2"),
    "h3": Identity(Role.AGENT, "h3"),
    "manager": Identity(Role.MANAGER, "manager"),
    "operator": Identity(Role.OPERATOR, "h1"),  # named as a host, on purpose
}


@asynccontextmanager
async def _cluster(folder: Path) -> AsyncIterator[tuple[Unlucky, Callable[[str], RemoteRegistry]]]:
    create_authority(folder / "ca")
    for name, identity in PARTIES.items():
        issue(folder / "ca", identity, folder / name)
    kept = Unlucky(folder / "registry.db")
    app = FastAPI()
    add_handlers(app)
    app.include_router(registry_router(kept, peer_of))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(kept.close)
        port = await stack.enter_async_context(serve(app, folder / "manager"))

        def connect(party: str) -> RemoteRegistry:
            registry = RemoteRegistry(f"https://127.0.0.1:{port}", folder / party, timeout=2)
            stack.push_async_callback(registry.close)
            return registry

        yield kept, connect


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[tuple[Unlucky, Callable[[str], RemoteRegistry]]]:
    async with _cluster(tmp_path) as made:
        yield made


Cluster = tuple[Unlucky, Callable[[str], RemoteRegistry]]


async def test_everyone_with_a_certificate_may_read(cluster: Cluster) -> None:
    kept, connect = cluster
    record = await kept.claim(VM, "h1")
    for party in PARTIES:
        assert await connect(party).get(VM) == record
        assert await connect(party).list() == [record]


async def test_an_agent_claims_for_itself_alone(cluster: Cluster) -> None:
    _, connect = cluster
    for party in set(PARTIES) - {"h1"}:
        with pytest.raises(NotAllowed):
            await connect(party).claim(VM, "h1")
    assert (await connect("h1").claim(VM, "h1")).owner == "h1"


async def test_each_event_is_allowed_to_one_host_alone(cluster: Cluster) -> None:
    """Every party tries every event of a move from h1 to h2; only the one whose right it is gets through."""
    kept, connect = cluster
    record = await kept.claim(VM, "h1")
    steps: list[tuple[str, Callable[[Ownership], Ownership]]] = [
        ("h1", lambda r: ownership.begin(r, "m1", "h2")),
        ("h1", lambda r: ownership.abort(r, "m1")),
        ("h1", lambda r: ownership.begin(r, "m2", "h2")),
        ("h2", lambda r: ownership.commit(r, "m2", "h2")),
        ("h2", lambda r: ownership.take_back(r, "h1")),
    ]
    for holder, step in steps:
        new = step(record)
        for party in set(PARTIES) - {holder}:
            with pytest.raises(NotAllowed):
                await connect(party).swap(record, new)
            assert await kept.get(VM) == record
        record = await connect(holder).swap(record, new)


async def test_a_vm_is_released_by_its_owner_alone(cluster: Cluster) -> None:
    kept, connect = cluster
    record = await kept.claim(VM, "h1")
    for party in set(PARTIES) - {"h1"}:
        with pytest.raises(NotAllowed):
            await connect(party).release(record)
    await connect("h1").release(record)
    assert await kept.get(VM) is None


@pytest.mark.parametrize("fate", ["request", "answer", "disaster", "slow answer"])
async def test_a_lost_request_and_a_lost_answer_look_the_same_and_say_so(cluster: Cluster, fate: str) -> None:
    kept, connect = cluster
    record = await kept.claim(VM, "h1")
    kept.lose = [fate]
    new = ownership.begin(record, "m1", "h2")
    with pytest.raises(Unreachable):
        await connect("h1").swap(record, new)
    assert await connect("h1").get(VM) == (new if "answer" in fate else record)


async def test_a_manager_that_is_gone_or_is_another_program_cannot_tell(cluster: Cluster, tmp_path: Path) -> None:
    registry = RemoteRegistry("https://127.0.0.1:1", tmp_path / "h1")
    with pytest.raises(Unreachable, match="manager at 127"):
        await registry.get(VM)
    await registry.close()
    async with serve(FastAPI(), tmp_path / "manager") as port:
        registry = RemoteRegistry(f"https://127.0.0.1:{port}", tmp_path / "h1")
        with pytest.raises(Unreachable, match="status 404"):
            await registry.get(VM)
        await registry.close()


async def test_nothing_at_a_wrong_path_is_not_taken_for_a_vm_without_owner(tmp_path: Path) -> None:
    create_authority(tmp_path / "ca")
    for name in ("h1", "manager"):
        issue(tmp_path / "ca", PARTIES[name], tmp_path / name)
    app = FastAPI()
    add_handlers(app)
    async with serve(app, tmp_path / "manager") as port:
        registry = RemoteRegistry(f"https://127.0.0.1:{port}", tmp_path / "h1")
        with pytest.raises(Unreachable):
            await registry.get(VM)
        await registry.close()


async def test_an_agent_that_pretends_to_be_the_manager_is_not_believed(cluster: Cluster, tmp_path: Path) -> None:
    async with serve(FastAPI(), tmp_path / "h2") as port:
        registry = RemoteRegistry(f"https://127.0.0.1:{port}", tmp_path / "h1")
        with pytest.raises(Unreachable, match="not manager"):
            await registry.get(VM)
        await registry.close()


async def test_a_certificate_that_has_run_out_is_no_verdict(cluster: Cluster, tmp_path: Path) -> None:
    """Nobody may conclude from it that the swap lost: an earlier one of ours may be under way."""
    kept, _ = cluster
    record = await kept.claim(VM, "h1")
    issue(tmp_path / "ca", PARTIES["manager"], tmp_path / "old", valid_for=-timedelta(hours=1))
    async with serve(FastAPI(), tmp_path / "old") as port:
        registry = RemoteRegistry(f"https://127.0.0.1:{port}", tmp_path / "h1")
        with pytest.raises(Unreachable, match="expired"):
            await registry.swap(record, ownership.begin(record, "m1", "h2"))
        await registry.close()


async def no_pause() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "fates", [[], ["request"], ["answer"], ["request", "read", "read", "answer", "read"], ["disaster", "request"]]
)
async def test_a_swap_is_followed_until_it_is_known(cluster: Cluster, fates: list[str]) -> None:
    kept, connect = cluster
    record = await kept.claim(VM, "h1")
    kept.lose = list(fates)
    new = ownership.begin(record, "m1", "h2")
    assert await swap_until_known(connect("h1"), record, new, no_pause) == new
    assert await kept.get(VM) == new


async def test_the_loser_of_a_swap_learns_what_won(cluster: Cluster) -> None:
    kept, connect = cluster
    owned = await kept.claim(VM, "h1")
    moving = await kept.swap(owned, ownership.begin(owned, "m1", "h2"))
    aborted = await kept.swap(moving, ownership.abort(moving, "m1"))
    commit = ownership.commit(moving, "m1", "h2")
    kept.lose = ["request", "read"]
    assert await swap_until_known(connect("h2"), moving, commit, no_pause) == aborted
    await kept.release(aborted)
    assert await swap_until_known(connect("h2"), moving, commit, no_pause) is None


async def test_following_a_swap_ends_when_the_pause_says_so(cluster: Cluster) -> None:
    kept, connect = cluster
    record = await kept.claim(VM, "h1")
    kept.lose = ["request"] * 100

    async def enough() -> None:
        raise NeedsAttention("waited long enough")

    with pytest.raises(NeedsAttention):
        await swap_until_known(connect("h1"), record, ownership.begin(record, "m1", "h2"), enough)


async def test_a_swap_that_is_not_this_hosts_right_is_not_tried_again(cluster: Cluster) -> None:
    kept, connect = cluster
    record = await kept.claim(VM, "h1")
    with pytest.raises(NotAllowed):
        await swap_until_known(connect("h2"), record, ownership.begin(record, "m1", "h2"), no_pause)
    with pytest.raises(Busy):
        await connect("h2").claim(VM, "h2")
