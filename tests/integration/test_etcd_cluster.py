"""A registry in three members of etcd over TLS. They die, hang and come back: no swap is lost or done twice."""

import asyncio
import itertools
import random
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from kvmove.errors import Busy, NotAllowed, NotFound, Unreachable
from kvmove.manager.config import EtcdSettings
from kvmove.manager.registry_engine import open_registry
from kvmove.model.ownership import Ownership, OwnershipState
from kvmove.registry import ownership
from kvmove.registry.etcd import EtcdRegistry
from kvmove.registry.interface import Registry
from kvmove.registry.settle import swap_until_known
from tests.support.etcd_members import EtcdMembers, serving
from tests.support.eventually import eventually

VM = UUID(int=1)
PREFIX = "/kvmove"
HANG = 60.0
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdMembers]:
    with serving(tmp_path / "etcd", 3, tls=True) as members:
        yield members


@asynccontextmanager
async def connected(etcd: EtcdMembers, timeout: float = 4.0) -> AsyncIterator[EtcdRegistry]:
    registry = EtcdRegistry(etcd.endpoints, PREFIX, etcd.tls, timeout=timeout)
    try:
        yield registry
    finally:
        await registry.close()


async def answered(ask: Callable[[], Any]) -> Any:
    """What `ask` gives once it is reachable again."""
    async with asyncio.timeout(HANG):
        while True:
            try:
                return await ask()
            except Unreachable:
                await asyncio.sleep(0.1)


async def test_any_one_member_may_be_gone(etcd: EtcdMembers) -> None:
    async with connected(etcd) as registry:
        record = await answered(lambda: registry.claim(VM, "h1"))
        for number in range(3):
            etcd.kill(number)
            moving = ownership.begin(record, f"m{number}", "h2")
            assert await swap_until_known(registry, record, moving, pause) == moving
            record = ownership.abort(moving, f"m{number}")
            assert await swap_until_known(registry, moving, record, pause) == record
            etcd.start(number)
            etcd.wait_until_serving()
        assert await answered(lambda: registry.get(VM)) == record


async def test_without_a_majority_nothing_is_answered_and_nothing_changes(etcd: EtcdMembers) -> None:
    """Not even a read: the one that is left could be cut off from two that have gone on."""
    async with connected(etcd, timeout=1.5) as registry:
        owned = await answered(lambda: registry.claim(VM, "h1"))
        leader = etcd.leader()
        others = [number for number in range(3) if number != leader]
        for number in others:
            etcd.kill(number)
        questions: list[Callable[[], Awaitable[object]]] = [
            lambda: registry.get(VM),
            registry.list,
            lambda: registry.claim(VM, "h2"),
            lambda: registry.swap(owned, ownership.begin(owned, "m1", "h2")),
            lambda: registry.release(owned),
        ]
        for question in questions:
            async with asyncio.timeout(HANG):
                with pytest.raises(Unreachable) as caught:
                    await question()
            assert "members up" in caught.value.hint
        for number in others:
            etcd.start(number)
        assert await answered(lambda: registry.get(VM)) == owned
        etcd.wait_until_serving()
        moving = ownership.begin(owned, "m1", "h2")
        assert await swap_until_known(registry, owned, moving, pause) == moving


async def test_a_member_that_is_cut_off_gives_no_old_record(etcd: EtcdMembers) -> None:
    """It hangs while the others change the record; awake again, it is the only one that is asked."""
    async with connected(etcd) as registry:
        owned = await answered(lambda: registry.claim(VM, "h1"))
        moving = ownership.begin(owned, "m1", "h2")
        sleeper = etcd.leader()
        alone = EtcdRegistry([etcd.endpoints[sleeper]], PREFIX, etcd.tls, timeout=HANG)
        assert await alone.get(VM) == owned
        with etcd.hung(sleeper):
            assert await swap_until_known(registry, owned, moving, pause) == moving
        assert await alone.get(VM) == moving
        await alone.close()


async def test_strangers_are_refused_on_both_sides(etcd: EtcdMembers, tmp_path: Path) -> None:
    """Our engine shows a certificate of etcd's authority, and takes no etcd of another."""
    with serving(tmp_path / "strange", 1, tls=True) as strange:
        for ca, cert, reason in (
            (etcd, strange, "refuses our certificate|reset|closed"),
            (strange, etcd, "not trusted"),
        ):
            settings = settings_of(etcd, ca=ca.ca, cert=cert.cert, key=cert.key)
            registry = open_registry(settings, tmp_path)
            with pytest.raises(Unreachable, match=reason):
                await registry.get(VM)
            await registry.close()
    registry = open_registry(settings_of(etcd), tmp_path)
    assert await answered(lambda: registry.get(VM)) is None
    await registry.close()
    with pytest.raises(NotFound, match=r"none\.pem is missing"):
        open_registry(settings_of(etcd, cert=tmp_path / "none.pem"), tmp_path)
    etcd.key.chmod(0o644)
    with pytest.raises(NotAllowed, match="can be read by others"):
        open_registry(settings_of(etcd), tmp_path)


def settings_of(etcd: EtcdMembers, **changed: Path) -> EtcdSettings:
    files = {"ca": etcd.ca, "cert": etcd.cert, "key": etcd.key} | changed
    return EtcdSettings(engine="etcd", endpoints=tuple(etcd.endpoints), prefix=PREFIX, **files)


async def pause() -> None:
    await asyncio.sleep(0.02)


class Asked(NamedTuple):
    """One swap that a worker asked for, and what it heard: "won", "lost" or "unknown"."""

    expected: Ownership
    new: Ownership
    heard: str


VMS = [UUID(int=number) for number in range(1, 4)]
_MOVES = itertools.count()


def some_event(record: Ownership, dice: random.Random) -> Ownership:
    """A legal change of `record`, whoever's right it is."""
    other = dice.choice([host for host in ("h1", "h2", "h3") if host != record.owner])
    if record.state is OwnershipState.OWNED:
        if dice.random() < 0.2:
            return ownership.take_back(record, other)
        return ownership.begin(record, f"m{next(_MOVES)}", other)
    move = str(record.move_id)
    return (
        ownership.abort(record, move)
        if dice.random() < 0.5
        else ownership.commit(record, move, str(record.destination))
    )


async def work(registry: Registry, dice: random.Random, asked: list[Asked], enough: asyncio.Event) -> None:
    """Change VMs as fast as it goes, now and then from a stale view, and write down what was heard."""
    seen: dict[UUID, Ownership] = {}
    while not enough.is_set():
        vm = dice.choice(VMS)
        try:
            if vm not in seen or dice.random() < 0.7:
                seen[vm] = await registry.get(vm) or seen[vm]
        except Unreachable:
            continue
        new = some_event(seen[vm], dice)
        try:
            won = await registry.swap(seen[vm], new)
        except Busy:
            asked.append(Asked(seen[vm], new, "lost"))
        except Unreachable:
            asked.append(Asked(seen[vm], new, "unknown"))
        else:
            assert won == new
            asked.append(Asked(seen[vm], new, "won"))


def history(etcd: EtcdMembers, vm: UUID) -> list[Ownership]:
    """All records that the VM ever had, oldest first, as etcd itself kept them."""
    key = b64encode(f"{PREFIX}/vm/{vm}/owner".encode()).decode()
    records: list[Ownership] = []
    revision = 0
    while True:
        pairs = etcd.ask(etcd.leader(), "/v3/kv/range", {"key": key, "revision": str(revision)}).get("kvs")
        if not pairs:
            return records[::-1]
        records.append(Ownership.model_validate_json(b64decode(pairs[0]["value"])))
        if pairs[0]["mod_revision"] == pairs[0]["create_revision"]:
            return records[::-1]
        revision = int(pairs[0]["mod_revision"]) - 1


def check_history(records: list[Ownership], asked: list[Asked]) -> None:
    """The records are one chain of legal events, and everyone heard the truth about their own."""
    steps = list(itertools.pairwise(records))
    assert all(ownership.legal(old, new) for old, new in steps), "a swap replaced a record that it did not expect"
    assert len(set(steps)) == len(steps), "a swap was done twice"
    for swap, heard in heard_of(asked).items():
        assert heard.count("won") <= 1, f"{swap} was won by several"
        if "won" in heard:
            assert swap in steps, f"{swap} was answered, and is lost"
        if swap in steps:
            assert "won" in heard or "unknown" in heard, f"{swap} was done, and refused to whoever asked for it"
    assert set(steps) <= heard_of(asked).keys()


def heard_of(asked: list[Asked]) -> dict[tuple[Ownership, Ownership], list[str]]:
    heard: dict[tuple[Ownership, Ownership], list[str]] = {}
    for swap in asked:
        heard.setdefault((swap.expected, swap.new), []).append(swap.heard)
    return heard


async def some_wins(asked: list[Asked], number: int = 40) -> None:
    """Return once `number` more swaps were won: the registry goes on."""
    goal = sum(swap.heard == "won" for swap in asked) + number
    await eventually(lambda: sum(swap.heard == "won" for swap in asked) >= goal)


async def trouble(etcd: EtcdMembers, asked: list[Asked]) -> None:
    """The leader is killed twice in the middle of swaps, hangs once, and once all members are killed."""
    for _ in range(2):
        await some_wins(asked)
        leader = await asyncio.to_thread(etcd.leader)
        etcd.kill(leader)
        await some_wins(asked)
        etcd.start(leader)
    await some_wins(asked)
    with etcd.hung(await asyncio.to_thread(etcd.leader)):
        await some_wins(asked)
    await some_wins(asked)
    for number in range(3):
        etcd.kill(number)
    for number in range(3):
        etcd.start(number)
    await some_wins(asked)


async def test_no_swap_is_lost_or_done_twice_while_leaders_die(etcd: EtcdMembers) -> None:
    """Four managers' worth of connections race for three VMs; etcd's own history is the judge."""
    asked: list[Asked] = []
    enough = asyncio.Event()
    async with connected(etcd) as first, connected(etcd) as second, connected(etcd) as third, connected(etcd) as fourth:
        for vm in VMS:
            await answered(partial(first.claim, vm, "h1"))
        async with asyncio.TaskGroup() as workers:
            for number, registry in enumerate((first, second, third, fourth)):
                workers.create_task(work(registry, random.Random(number), asked, enough))
            try:
                await trouble(etcd, asked)
            finally:
                enough.set()
    await asyncio.to_thread(etcd.wait_until_serving)
    heard = [swap.heard for swap in asked]
    assert "lost" in heard, "nobody raced"
    for vm in VMS:
        check_history(history(etcd, vm), [swap for swap in asked if swap.expected.vm == vm])
