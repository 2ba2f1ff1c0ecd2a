"""The registry's contract on three members of etcd over TLS: with one member dead, and with the majority gone and back
in the middle of everything."""

import asyncio
import inspect
import itertools
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest

from kvmove.errors import Unreachable
from kvmove.manager.config import EtcdSettings
from kvmove.manager.registry_engine import open_slots
from kvmove.model.ownership import Ownership
from kvmove.registry import ownership
from kvmove.registry.etcd import EtcdRegistry
from kvmove.registry.etcd_slots import EtcdSlots
from kvmove.registry.settle import swap_until_known
from kvmove.registry.slots import Want
from tests.support.etcd_members import EtcdMembers, serving
from tests.unit.registry import test_registry_contract, test_slots_contract

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]

T = TypeVar("T")

HANG = 60.0
_NUMBERS = itertools.count()
OUTAGE_SECONDS, RESPITE_SECONDS = 1.0, 0.7


def questions(module: Any, fixture: str) -> list[Callable[..., Any]]:
    """The tests of a contract, which ask for that fixture."""
    found = [it for name, it in vars(module).items() if name.startswith("test_")]
    return [it for it in found if fixture in inspect.signature(it).parameters]


REGISTRY = questions(test_registry_contract, "as_host")
SLOTS = questions(test_slots_contract, "new_store")


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdMembers]:
    with serving(tmp_path_factory.mktemp("etcd"), 3, tls=True) as members:
        yield members


@pytest.fixture
def prefix() -> str:
    return f"/kvmove/test{next(_NUMBERS)}"


@pytest.fixture
def one_dead(etcd: EtcdMembers) -> Iterator[EtcdMembers]:
    """The leader is killed as the test begins, and comes back after it."""
    leader = etcd.leader()
    etcd.kill(leader)
    yield etcd
    etcd.start(leader)
    etcd.wait_until_serving()


@contextmanager
def outages(etcd: EtcdMembers) -> Iterator[None]:
    """Two of three members die and come back, again and again; it begins with the first death."""
    enough, begun = threading.Event(), threading.Event()

    def trouble() -> None:
        while not enough.is_set():
            for number in (0, 1):
                etcd.kill(number)
            begun.set()
            enough.wait(OUTAGE_SECONDS)
            for number in (0, 1):
                etcd.start(number)
            etcd.wait_until_serving()
            enough.wait(RESPITE_SECONDS)

    thread = threading.Thread(target=trouble)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        enough.set()
        thread.join()


class Patient:
    """Asks until there is an answer, and follows a change whose answer was lost, as whoever uses a registry must."""

    def __init__(self, registry: EtcdRegistry) -> None:
        self._registry = registry
        self.close = registry.close

    async def get(self, vm: UUID) -> Ownership | None:
        return await answered(lambda: self._registry.get(vm))

    async def list(self) -> list[Ownership]:
        return await answered(self._registry.list)

    async def claim(self, vm: UUID, host: str) -> Ownership:
        return await answered(lambda: self._registry.claim(vm, host))

    async def swap(self, expected: Ownership, new: Ownership) -> Ownership:
        stored = await swap_until_known(self._registry, expected, new, pause)
        if stored != new:
            ownership.check_unchanged(stored, expected)
        return new

    async def release(self, expected: Ownership) -> None:
        try:
            await self._registry.release(expected)
        except Unreachable:
            if await self.get(expected.vm) is not None:
                await self.release(expected)


async def answered(ask: Callable[[], Awaitable[T]]) -> T:
    async with asyncio.timeout(HANG):
        while True:
            try:
                return await ask()
            except Unreachable as error:
                if "closed" in error.detail:
                    raise
                await pause()


async def pause() -> None:
    await asyncio.sleep(0.02)


@pytest.mark.parametrize("question", REGISTRY, ids=lambda it: it.__name__)
async def test_the_registry_with_one_member_dead(
    question: Callable[..., Any], one_dead: EtcdMembers, prefix: str
) -> None:
    registry = EtcdRegistry(one_dead.endpoints, prefix, one_dead.tls, timeout=HANG)
    await question(lambda _host: registry)
    await registry.close()


@pytest.mark.parametrize("question", REGISTRY, ids=lambda it: it.__name__)
async def test_the_registry_while_the_majority_comes_and_goes(
    question: Callable[..., Any], etcd: EtcdMembers, prefix: str
) -> None:
    registry = EtcdRegistry(etcd.endpoints, prefix, etcd.tls)
    with outages(etcd):
        await question(lambda _host: Patient(registry))
    await registry.close()


@pytest.mark.parametrize("question", SLOTS, ids=lambda it: it.__name__)
async def test_the_slots_with_one_member_dead(question: Callable[..., Any], one_dead: EtcdMembers, prefix: str) -> None:
    def store() -> EtcdSlots:
        return EtcdSlots(one_dead.endpoints, prefix, one_dead.tls, timeout=HANG)

    given = {"new_store": store, "short": 3.0}
    await question(**{name: value for name, value in given.items() if name in inspect.signature(question).parameters})


async def test_two_managers_share_slots_while_the_majority_comes_and_goes(etcd: EtcdMembers, prefix: str) -> None:
    """No more is ever noted than fits, and in the end exactly what both believe to hold."""
    settings = EtcdSettings(
        engine="etcd", endpoints=tuple(etcd.endpoints), prefix=prefix, ca=etcd.ca, cert=etcd.cert, key=etcd.key
    )
    managers = [open_slots(settings, Path("/nowhere")) for _ in range(2)]
    believed: set[str] = set()

    async def work(number: int) -> None:
        for turn in range(12):
            holder = f"m{number}-{turn}"
            if await answered(partial(managers[number].take, holder, {"host/h1": Want(2, 8)})):
                believed.add(holder)
                if turn % 3:
                    await managers[number].release(holder)
                    believed.discard(holder)

    keeping = [asyncio.create_task(manager.run()) for manager in managers]
    with outages(etcd):
        await asyncio.gather(work(0), work(1))
        taken = (await answered(managers[0].taken))["host/h1"]
        assert believed <= taken.keys() and sum(taken.values()) <= 8
    for task in keeping:
        task.cancel()
    for manager in managers:
        await manager.close()
