"""What is special about the etcd engine: its keys, lost answers, members that hang, and strangers."""

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from kvmove.errors import Busy, Unreachable
from kvmove.model.ownership import Ownership
from kvmove.registry import ownership
from kvmove.registry.etcd import EtcdRegistry
from kvmove.registry.settle import swap_until_known
from tests.support.etcd_members import EtcdMembers, serving
from tests.support.lossy_gateway import LossyGateway, lossy_gateway

VM = UUID(int=1)
HANG = 30.0


@pytest.fixture
async def kept(etcd: EtcdMembers, prefix: str) -> AsyncIterator[EtcdRegistry]:
    """The registry as it is: asked without anything in the way."""
    registry = EtcdRegistry(etcd.endpoints, prefix, None, timeout=HANG)
    yield registry
    await registry.close()


@pytest.fixture
async def door(etcd: EtcdMembers) -> AsyncIterator[LossyGateway]:
    async with lossy_gateway(etcd.endpoints[0], LossyGateway) as gateway:
        yield gateway


@pytest.fixture
async def unlucky(door: LossyGateway, prefix: str, request: pytest.FixtureRequest) -> AsyncIterator[EtcdRegistry]:
    """The same registry, asked through the door that loses things. Only what hangs has to wait a deadline out."""
    registry = EtcdRegistry([door.url], prefix, None, timeout=3 if "hang" in request.node.name else HANG)
    yield registry
    await registry.close()


def encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


def everything(etcd: EtcdMembers, prefix: str) -> dict[str, str]:
    """All keys below `prefix`, read without any code of the product's."""
    below = {"key": encoded(f"{prefix}/"), "range_end": encoded(f"{prefix}0")}
    pairs = etcd.ask(0, "/v3/kv/range", below).get("kvs", [])
    return {b64decode(pair["key"]).decode(): b64decode(pair.get("value", "")).decode() for pair in pairs}


def put(etcd: EtcdMembers, key: str, value: str) -> None:
    etcd.ask(0, "/v3/kv/put", {"key": encoded(key), "value": encoded(value)})


async def test_the_keys_are_as_the_layout_says(kept: EtcdRegistry, etcd: EtcdMembers, prefix: str) -> None:
    record = await kept.claim(VM, "h1")
    (pair,) = everything(etcd, prefix).items()
    assert pair[0] == f"{prefix}/vm/{VM}/owner"
    assert json.loads(pair[1]) == record.model_dump(mode="json")
    await kept.release(record)
    assert everything(etcd, prefix) == {f"{prefix}/released/{VM}": "1"}


async def test_nothing_has_a_lease(kept: EtcdRegistry, etcd: EtcdMembers) -> None:
    await kept.swap(owned := await kept.claim(VM, "h1"), ownership.begin(owned, "m1", "h2"))
    assert "leases" not in etcd.ask(0, "/v3/lease/leases", {})


async def test_what_else_belongs_to_a_vm_does_not_disturb(kept: EtcdRegistry, etcd: EtcdMembers, prefix: str) -> None:
    record = await kept.claim(VM, "h1")
    put(etcd, f"{prefix}/vm/{VM}/slot", "h1")
    put(etcd, f"{prefix}/vms", "no VM")
    assert await kept.list() == [record]


ANOTHERS = Ownership(vm=UUID(int=2), owner="h1", epoch=1).model_dump_json()


@pytest.mark.parametrize("value", ["", "nonsense", "{}", ANOTHERS])
async def test_a_record_that_cannot_be_read_is_no_answer(
    kept: EtcdRegistry, etcd: EtcdMembers, prefix: str, value: str
) -> None:
    put(etcd, f"{prefix}/vm/{VM}/owner", value)
    for question in (kept.get(VM), kept.list(), kept.claim(VM, "h1")):
        with pytest.raises(Unreachable, match="cannot be read"):
            await question
    assert everything(etcd, prefix)[f"{prefix}/vm/{VM}/owner"] == value


async def test_an_epoch_that_cannot_be_read_is_not_taken_for_none(
    kept: EtcdRegistry, etcd: EtcdMembers, prefix: str
) -> None:
    put(etcd, f"{prefix}/released/{VM}", "many")
    with pytest.raises(Unreachable, match="cannot be read"):
        await kept.claim(VM, "h1")


@pytest.mark.parametrize("fate", ["request", "answer", "late", "hang"])
async def test_a_change_without_an_answer_is_unreachable_and_asked_once(
    kept: EtcdRegistry, unlucky: EtcdRegistry, door: LossyGateway, fate: str
) -> None:
    """Never Busy: the record that stands there may be our own."""
    owned = await kept.claim(VM, "h1")
    moving = ownership.begin(owned, "m1", "h2")
    door.changes = [fate]
    with pytest.raises(Unreachable, match="etcd gave no answer") as caught:
        await unlucky.swap(owned, moving)
    assert caught.value.hint and door.url in caught.value.detail
    assert door.seen == ["read", f"change: {fate}"]
    assert await kept.get(VM) == (owned if fate == "request" else moving)


@pytest.mark.parametrize("fates", ["request", "answer", "late", "hang", "request late"])
async def test_a_swap_is_followed_until_it_is_known(
    kept: EtcdRegistry, unlucky: EtcdRegistry, door: LossyGateway, fates: str
) -> None:
    async def no_pause() -> None:
        await asyncio.sleep(0)

    owned = await kept.claim(VM, "h1")
    moving = ownership.begin(owned, "m1", "h2")
    door.changes, door.reads = fates.split(), ["", "answer", "late"]
    assert await swap_until_known(unlucky, owned, moving, no_pause) == moving
    assert await kept.get(VM) == moving


async def test_a_read_is_asked_again_when_its_answer_is_lost(
    kept: EtcdRegistry, unlucky: EtcdRegistry, door: LossyGateway
) -> None:
    record = await kept.claim(VM, "h1")
    door.reads = ["answer", "late", "request"]
    assert await unlucky.get(VM) == record


async def test_a_member_that_hangs_costs_its_share_of_the_time_alone(
    kept: EtcdRegistry, etcd: EtcdMembers, door: LossyGateway, prefix: str
) -> None:
    owned = await kept.claim(VM, "h1")
    door.reads = ["hang"] * 9
    registry = EtcdRegistry([door.url, *etcd.endpoints], prefix, None, timeout=6)
    moving = await registry.swap(owned, ownership.begin(owned, "m1", "h2"))
    assert await registry.get(VM) == moving
    assert door.seen == ["read: hang"], "the member that answered is asked first from then on"
    await registry.close()


class Overtaken(LossyGateway):
    """Does something to the record, once, just before the first change reaches etcd."""

    meanwhile: Callable[[], Awaitable[object]]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if (await request.json()).get("compare") and "change" not in self.seen:
            await self.meanwhile()
        return await super().handle(request)


@asynccontextmanager
async def overtaken(
    etcd: EtcdMembers, prefix: str, meanwhile: Callable[[], Awaitable[object]]
) -> AsyncIterator[EtcdRegistry]:
    async with lossy_gateway(etcd.endpoints[0], Overtaken) as gateway:
        gateway.meanwhile = meanwhile
        registry = EtcdRegistry([gateway.url], prefix, None, timeout=HANG)
        yield registry
        assert gateway.seen[:3] == ["read", "change", "read"]
        await registry.close()


async def test_a_record_that_changes_between_reading_and_writing_is_judged_anew(
    kept: EtcdRegistry, etcd: EtcdMembers, prefix: str
) -> None:
    """Another manager aborts just before our commit is written: the compare refuses it, and then the rules do."""
    owned = await kept.claim(VM, "h1")
    moving = await kept.swap(owned, ownership.begin(owned, "m1", "h2"))
    aborted = ownership.abort(moving, "m1")
    async with overtaken(etcd, prefix, lambda: kept.swap(moving, aborted)) as registry:
        with pytest.raises(Busy, match="epoch 2"):
            await registry.swap(moving, ownership.commit(moving, "m1", "h2"))
    assert await kept.get(VM) == aborted


async def test_a_claim_that_a_whole_life_overtakes_takes_the_next_epoch(
    kept: EtcdRegistry, etcd: EtcdMembers, prefix: str
) -> None:
    """No record before and none after, but its first epoch is used up."""

    async def a_whole_life() -> None:
        await kept.release(await kept.claim(VM, "h2"))

    async with overtaken(etcd, prefix, a_whole_life) as registry:
        assert (await registry.claim(VM, "h1")).epoch == 2


async def test_nobody_there_is_unreachable_with_the_reason_of_each(prefix: str) -> None:
    registry = EtcdRegistry(["http://127.0.0.1:1", "http://127.0.0.1:2"], prefix, None, timeout=2)
    for question in (registry.list(), registry.claim(VM, "h1")):
        with pytest.raises(
            Unreachable, match=r"127.0.0.1:1: Connection refused; .*127.0.0.1:2: Connection refused"
        ) as caught:
            await question
        assert "members up" in caught.value.hint
    await registry.close()


@pytest.mark.parametrize("answer", ["{}", "no JSON", '{"header": {"cluster_id": 7}}'])
async def test_what_is_no_etcd_is_not_believed(prefix: str, answer: str) -> None:
    """An empty object would read as "not registered": in proto3's JSON what is zero is left out."""

    class Stranger(LossyGateway):
        async def handle(self, request: web.Request) -> web.StreamResponse:
            return web.Response(text=answer)

    async with lossy_gateway("", Stranger) as stranger:
        registry = EtcdRegistry([stranger.url], prefix, None, timeout=2)
        with pytest.raises(Unreachable, match="answers"):
            await registry.get(VM)
        await registry.close()


async def test_two_clusters_are_never_one_registry(
    kept: EtcdRegistry, etcd: EtcdMembers, door: LossyGateway, prefix: str, tmp_path: Path
) -> None:
    """A member of another cluster in the list would have the VM free to be claimed a second time."""
    record = await kept.claim(VM, "h1")
    with serving(tmp_path / "other", 1, tls=False) as other:
        registry = EtcdRegistry([door.url, *other.endpoints], prefix, None, timeout=6)
        assert await registry.get(VM) == record
        door.reads = ["request"] * 999
        with pytest.raises(Unreachable, match="is a member of cluster"):
            await registry.claim(VM, "h2")
        assert everything(other, prefix) == {}
        await registry.close()


async def test_calls_at_once_over_two_registries_are_one_after_the_other(
    kept: EtcdRegistry, etcd: EtcdMembers, prefix: str
) -> None:
    """As of two managers that share one etcd."""
    second = EtcdRegistry(etcd.endpoints, prefix, None, timeout=HANG)
    hosts = [f"h{number}" for number in range(8)]
    claims = (registry.claim(VM, host) for host, registry in zip(hosts, [kept, second] * 4, strict=True))
    answers: list[Any] = await asyncio.gather(*claims, return_exceptions=True)
    winners = [answer for answer in answers if isinstance(answer, Ownership)]
    assert len(winners) == 1 and await second.get(VM) == winners[0]
    assert all(isinstance(answer, Ownership | Busy) for answer in answers)
    await second.close()
