"""One contract for admission slots in both engines, SQLite and a real etcd, with two managers at each."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kvmove.errors import InvalidInput, Unreachable
from kvmove.registry.etcd_slots import EtcdSlots
from kvmove.registry.leased_slots import LeasedSlots
from kvmove.registry.slots import Held, Outcome, SlotStore, Want, fits
from kvmove.registry.sqlite import SqliteSlots
from tests.support.etcd_members import EtcdMembers

HANG = 30.0

H1, H2 = {"host/h1": Want(4, 8)}, {"host/h2": Want(4, 8)}
UNIFIED = H1 | H2 | {"nic/h1/mig0": Want(4, 4), "datastore/5f/é": Want(16, 128)}

Store = Callable[[], SlotStore]


@pytest.fixture(params=["sqlite", "etcd"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Opens the one store again and again, as several managers do."""
    if request.param == "sqlite":
        return lambda: SqliteSlots(tmp_path / "registry.db")
    members: EtcdMembers = request.getfixturevalue("etcd")
    prefix: str = request.getfixturevalue("prefix")
    return lambda: EtcdSlots(members.endpoints, prefix, members.tls, timeout=HANG)


@pytest.fixture
def short(new_store: Store, request: pytest.FixtureRequest) -> float:
    """Seconds of a short lease; etcd has none shorter than two."""
    return 2.0 if "etcd" in request.node.name else 0.6


@asynccontextmanager
async def manager(store: SlotStore, seconds: float = HANG) -> AsyncIterator[LeasedSlots]:
    """Its end is a crash: nothing is given back."""
    slots = LeasedSlots(store, seconds=seconds)
    keeping = asyncio.create_task(slots.run())
    try:
        yield slots
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        await slots.close()


async def becomes(slots: LeasedSlots, expected: dict[str, dict[str, int]]) -> None:
    async with asyncio.timeout(HANG):
        seen = await slots.taken()
        while seen != expected:
            await asyncio.sleep(0.1)
            seen = await slots.taken()


async def test_all_is_taken_or_nothing(new_store: Store) -> None:
    async with manager(new_store()) as one, manager(new_store()) as other:
        assert await one.taken() == {}
        assert await one.take("m1", UNIFIED)
        assert not await other.take("m2", H2 | {"nic/h1/mig0": Want(1, 4)})
        assert await other.taken() == {name: {"m1": want.units} for name, want in UNIFIED.items()}
        assert await other.take("m2", H1 | H2)
        assert not await one.take("m3", {"host/h1": Want(1, 8)})
        await one.release("m1")
        assert await one.taken() == {"host/h1": {"m2": 4}, "host/h2": {"m2": 4}}
        assert await one.take("m3", UNIFIED)


async def test_who_asks_again_is_not_in_his_own_way(new_store: Store) -> None:
    async with manager(new_store()) as slots:
        for wants in (UNIFIED, UNIFIED, H1):
            assert await slots.take("m1", wants)
        assert await slots.taken() == {"host/h1": {"m1": 4}}
        await slots.release("m1")
        await slots.release("m1")
        assert await slots.taken() == {}


async def test_what_could_never_be_given_is_refused_at_once(new_store: Store) -> None:
    async with manager(new_store()) as slots:
        for want in (Want(9, 8), Want(0, 8), Want(-1, 8)):
            with pytest.raises(InvalidInput, match="host/h1"):
                await slots.take("m1", H2 | {"host/h1": want})
        assert await slots.taken() == {}


async def test_of_many_managers_at_once_no_more_win_than_fit(new_store: Store) -> None:
    async with contextlib.AsyncExitStack() as stack:
        managers = [await stack.enter_async_context(manager(new_store())) for _ in range(4)]
        answers = await asyncio.gather(
            *(slots.take(f"m{number}-{turn}", H1) for turn in range(3) for number, slots in enumerate(managers))
        )
        assert answers.count(True) == 2
        assert len((await managers[0].taken())["host/h1"]) == 2


async def test_a_crash_frees_the_slots_and_a_living_manager_keeps_its_own(new_store: Store, short: float) -> None:
    async with manager(new_store(), short) as alive:
        assert await alive.take("m1", H1)
        async with manager(new_store(), short) as dead:
            assert await dead.take("m2", H1)
        assert not await alive.take("m3", H1)
        await becomes(alive, {"host/h1": {"m1": 4}})
        assert await alive.take("m3", H1)


async def test_a_restarted_manager_keeps_the_slots_of_what_runs(new_store: Store, short: float) -> None:
    """Under its new lease: the old one's end does not take them away. What fits no more is noted all the same."""
    async with manager(new_store(), short) as before:
        assert await before.take("m1", H1)
        assert await before.take("gone", H1)
    async with manager(new_store(), short) as after:
        await after.keep("m1", {"host/h1": 4})
        await becomes(after, {"host/h1": {"m1": 4}})
        assert await after.take("m2", H1)
        await after.keep("m3", {"host/h1": 4})
        assert await after.taken() == {"host/h1": {"m1": 4, "m2": 4, "m3": 4}}
        await after.release("m3")
        assert not await after.take("m4", H1)


async def test_a_lost_lease_is_noticed_and_the_slots_are_taken_anew(new_store: Store, short: float) -> None:
    """The manager sleeps for too long, and another takes the slots. Nobody's move ends for it."""
    slept, other = LeasedSlots(new_store(), seconds=short), LeasedSlots(new_store(), seconds=HANG)
    assert await slept.take("m1", {"host/h1": Want(8, 8)})
    await becomes(other, {})
    assert await other.take("m2", {"host/h1": Want(8, 8)})
    keeping = asyncio.create_task(slept.run())
    await becomes(other, {"host/h1": {"m1": 8, "m2": 8}})
    keeping.cancel()
    assert not await slept.take("m3", {"host/h1": Want(1, 8)})
    await slept.close()
    await other.close()


async def test_a_lease_lost_between_two_requests_hinders_neither(new_store: Store, short: float) -> None:
    slots = LeasedSlots(new_store(), seconds=short)
    assert await slots.take("m1", H1)
    await becomes(slots, {})
    assert await slots.take("m2", H2)
    assert await slots.taken() == {"host/h1": {"m1": 4}, "host/h2": {"m2": 4}}
    await slots.close()


class Deaf:
    """The store, with answers that are lost: the next `losses` changes are done, and nobody hears of it."""

    def __init__(self, store: SlotStore) -> None:
        self._store = store
        self.losses = 0
        self.new_lease, self.renew, self.held, self.close = store.new_lease, store.renew, store.held, store.close

    async def put(self, lease: str, holder: str, wants: Mapping[str, Want], *, anyway: bool) -> Outcome:
        outcome = await self._store.put(lease, holder, wants, anyway=anyway)
        self._lose()
        return outcome

    async def drop(self, holder: str) -> None:
        self._lose()
        await self._store.drop(holder)

    def _lose(self) -> None:
        if self.losses:
            self.losses -= 1
            raise Unreachable("lost")


async def test_what_was_left_by_a_lost_answer_is_put_right(new_store: Store, short: float) -> None:
    store = Deaf(new_store())
    async with manager(store, short) as slots:
        assert await slots.take("m1", H1)
        store.losses = 1
        with pytest.raises(Unreachable):
            await slots.take("m2", H2)
        await becomes(slots, {"host/h1": {"m1": 4}})
        store.losses = 1
        await slots.release("m1")
        await becomes(slots, {})


async def test_a_closed_store_cannot_tell(new_store: Store) -> None:
    slots = LeasedSlots(new_store())
    await slots.close()
    await slots.close()
    with pytest.raises(Unreachable, match="closed"):
        await slots.taken()


def test_a_slot_is_full_when_its_units_are_taken_by_others() -> None:
    held = [Held("m1", "l", {"a": 3, "b": 1}), Held("m2", "l", {"a": 1})]
    assert fits(held, "m3", {"a": Want(4, 8), "c": Want(1, 1)})
    assert not fits(held, "m3", {"b": Want(1, 8), "a": Want(5, 8)})
    assert fits(held, "m1", {"a": Want(7, 8)})
