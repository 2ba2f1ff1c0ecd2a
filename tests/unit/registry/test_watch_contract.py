"""One contract for watching the ownership in both engines, SQLite and a real etcd."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from uuid import UUID

import pytest

from kvmove.errors import Unreachable
from kvmove.model.ownership import Ownership
from kvmove.registry import etcd as etcd_engine
from kvmove.registry import ownership, sqlite
from kvmove.registry.etcd import EtcdRegistry
from kvmove.registry.interface import Change, FullList
from kvmove.registry.sqlite import SqliteRegistry
from tests.support.etcd_members import EtcdMembers, serving

VM, OTHER = UUID(int=1), UUID(int=2)
HANG = 30.0

Engine = SqliteRegistry | EtcdRegistry
News = AsyncGenerator[FullList | Change, None]


@pytest.fixture(params=["sqlite", "etcd"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    engine: Engine
    if request.param == "sqlite":
        engine = SqliteRegistry(tmp_path / "registry.db")
    else:
        members: EtcdMembers = request.getfixturevalue("etcd")
        engine = EtcdRegistry(members.endpoints, request.getfixturevalue("prefix"), members.tls, timeout=HANG)
    yield engine
    await engine.close()


async def following(news: News, number: int) -> list[FullList | Change]:
    async with asyncio.timeout(HANG):
        return [await anext(news) for _ in range(number)]


async def life(registry: Engine) -> list[Ownership | None]:
    """All that a VM becomes from its claim to its release; asked for twice where that changes nothing."""
    owned = await registry.claim(VM, "h1")
    await registry.claim(VM, "h1")
    moving = await registry.swap(owned, ownership.begin(owned, "m1", "h2"))
    there = await registry.swap(moving, ownership.commit(moving, "m1", "h2"))
    await registry.release(there)
    return [owned, moving, there, None]


async def test_a_full_list_comes_first_and_then_every_change_in_order(registry: Engine) -> None:
    before = await registry.claim(OTHER, "h3")
    async with aclosing(registry.watch()) as news:
        (first,) = await following(news, 1)
        assert isinstance(first, FullList) and first.records == [before]
        working = asyncio.create_task(life(registry))
        changes = [it for it in await following(news, 4) if isinstance(it, Change)]
        assert [it.record for it in changes] == await working
        assert {it.vm for it in changes} == {VM}
        revisions = [first.revision, *(it.revision for it in changes)]
        assert revisions == sorted(set(revisions))


async def test_a_watch_goes_on_after_the_revision_that_was_seen(registry: Engine) -> None:
    async with aclosing(registry.watch()) as news:
        (first,) = await following(news, 1)
    lived = await life(registry)
    async with aclosing(registry.watch(first.revision)) as news:
        seen = await following(news, 4)
    assert [it.record for it in seen if isinstance(it, Change)] == lived
    async with aclosing(registry.watch(seen[1].revision)) as news:
        assert await following(news, 2) == seen[2:]


async def test_a_closed_engine_ends_its_watches(registry: Engine) -> None:
    async with aclosing(registry.watch()) as news:
        await following(news, 1)
        waiting = asyncio.create_task(anext(news))
        await asyncio.sleep(0.1)
        await registry.close()
        with pytest.raises(Unreachable, match="closed"):
            async with asyncio.timeout(HANG):
                await waiting


async def test_changes_that_are_not_kept_come_as_a_full_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "KEPT_CHANGES", 2)
    registry = SqliteRegistry(tmp_path / "registry.db")
    await life(registry)
    for behind, kind in ((1, FullList), (2, Change), (99, FullList)):
        async with aclosing(registry.watch(behind)) as news:
            (it,) = await following(news, 1)
            assert isinstance(it, kind)
    await registry.close()


async def test_compacted_changes_come_as_a_full_list(etcd: EtcdMembers, prefix: str) -> None:
    registry = EtcdRegistry(etcd.endpoints, prefix, etcd.tls, timeout=HANG)
    async with aclosing(registry.watch()) as news:
        (first,) = await following(news, 1)
    await life(registry)
    record = await registry.claim(OTHER, "h1")
    now = etcd.ask(0, "/v3/kv/range", {"key": "AA=="})["header"]["revision"]
    etcd.ask(0, "/v3/kv/compaction", {"revision": now})
    async with aclosing(registry.watch(first.revision)) as news:
        (it,) = await following(news, 1)
        assert isinstance(it, FullList) and it.records == [record]
    await registry.close()


async def test_a_watch_outlives_its_member_and_misses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only member is killed and comes back; then it hangs without a word."""
    monkeypatch.setattr(etcd_engine, "SILENCE", 1.0)
    with serving(tmp_path / "etcd", 1, tls=False) as etcd:
        registry = EtcdRegistry(etcd.endpoints, "/kvmove", None, timeout=HANG)
        async with aclosing(registry.watch()) as news:
            await following(news, 1)
            waiting = asyncio.create_task(following(news, 4))
            await asyncio.sleep(0.2)
            etcd.kill(0)
            await asyncio.sleep(0.2)
            etcd.start(0)
            await asyncio.to_thread(etcd.wait_until_serving)
            lived = await life(registry)
            assert [it.record for it in await waiting if isinstance(it, Change)] == lived
            with etcd.hung(0):
                waiting = asyncio.create_task(following(news, 1))
                await asyncio.sleep(1.5)
            record = await registry.claim(OTHER, "h1")
            (it,) = await waiting
            assert isinstance(it, Change) and it.record == record
        await registry.close()
