"""The gate before the pause: when QEMU is held back for a silent registry or for disks, and when no more."""

import asyncio
from uuid import UUID

import pytest

from kvmove.errors import MoveFailed, Unreachable
from kvmove.migration import pause_gate
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.pause_gate import (
    FRESH_SECONDS,
    SLOWED_DISKS_SECONDS,
    SLOWED_WAIT_SECONDS,
    WAIT_SECONDS,
    PauseGate,
)
from kvmove.model.ownership import Ownership
from kvmove.qemu.migration import HELD_THROTTLE, Migration, MigrationInfo, Status
from kvmove.registry.sqlite import SqliteRegistry
from tests.support.samples import plan

VM = UUID(int=1)


class Registry(SqliteRegistry):
    """Answers, is away, or hangs."""

    def __init__(self) -> None:
        self.is_away = False
        self.hangs = asyncio.Event()
        self.hangs.set()

    async def get(self, vm: UUID) -> Ownership | None:
        await self.hangs.wait()
        if self.is_away:
            raise Unreachable("no majority")
        return None


class Held(Migration):
    """Only whether it is held back."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def hold_back(self) -> None:
        self.calls.append("hold")

    async def let_go(self) -> None:
        self.calls.append("let go")


class Gate:
    """The gate with all around it; time is a number here."""

    def __init__(self) -> None:
        self.now = 0.0
        self.in_step = True
        self.registry = Registry()
        self.board = MoveBoard(plan())
        self.migration = Held()
        self.gate = PauseGate(self.registry, VM, self.board, lambda: self.in_step, lambda: self.now)

    async def after(self, seconds: float, rounds: int = 1, throttle: int = 0) -> bool:
        """Whether QEMU is held then; it was looked at twice a second all the time, as the move does."""
        end = self.now + seconds
        while True:
            held = await self.gate.holds(self.migration, MigrationInfo(Status.ACTIVE, rounds=rounds, throttle=throttle))
            for _ in range(5):
                await asyncio.sleep(0)
            if self.now >= end:
                return held
            self.now = min(self.now + 0.5, end)


async def test_a_registry_that_answers_holds_nothing() -> None:
    it = Gate()
    assert not await it.after(60)
    assert it.migration.calls == [] and it.board.message == ""


async def test_one_that_is_away_holds_until_it_is_back() -> None:
    it = Gate()
    await it.after(5)
    it.registry.is_away = True
    assert await it.after(1.5)
    assert "waiting for the registry before the guest is paused: no majority" in it.board.message
    assert await it.after(20)
    it.registry.is_away = False
    assert not await it.after(1.5)
    assert it.migration.calls == ["hold", "let go"] and it.board.message == ""


async def test_one_that_hangs_holds_once_its_last_answer_is_old() -> None:
    it = Gate()
    await it.after(5)
    it.registry.hangs.clear()
    assert not await it.after(FRESH_SECONDS - 1)
    assert await it.after(2)
    assert "too long" in it.board.message
    it.registry.hangs.set()
    assert not await it.after(1)


async def test_rounds_that_go_by_meanwhile_do_not_count() -> None:
    it = Gate()
    await it.after(5, rounds=3)
    it.registry.is_away = True
    await it.after(10, rounds=3)
    await it.after(10, rounds=70)
    it.registry.is_away = False
    await it.after(2, rounds=90)
    assert it.gate.without_hold(MigrationInfo(Status.ACTIVE, rounds=95)).rounds == 8


async def test_the_wait_has_an_end() -> None:
    it = Gate()
    it.registry.is_away = True
    assert await it.after(WAIT_SECONDS)
    with pytest.raises(Unreachable, match="not answered for 300 s"):
        await it.after(5)


async def test_a_wait_that_ended_well_does_not_count_for_the_next() -> None:
    it = Gate()
    for _ in range(3):
        it.registry.is_away = True
        assert await it.after(WAIT_SECONDS - 10)
        it.registry.is_away = False
        assert not await it.after(2)


async def test_before_qemu_begins_it_is_waited_for_with_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Gate()
    it.registry.is_away = True

    async def pause() -> None:
        assert "waiting for the registry" in it.board.message
        it.now += 10
        it.registry.is_away = it.now < comes_back

    monkeypatch.setattr(pause_gate, "pause", pause)
    comes_back = 100.0
    await it.gate.wait()
    assert it.board.message == ""
    it.registry.is_away, comes_back = True, 1000.0
    with pytest.raises(Unreachable):
        await it.gate.wait()


async def test_a_guest_that_qemu_slows_is_not_held_so_for_long() -> None:
    it = Gate()
    it.registry.is_away = True
    assert await it.after(SLOWED_WAIT_SECONDS, throttle=70)
    with pytest.raises(Unreachable, match="not answered for 10 s"):
        await it.after(3, throttle=70)


async def test_disks_that_are_copied_again_hold_it_as_long_as_it_takes() -> None:
    it = Gate()
    await it.after(5)
    it.in_step = False
    assert await it.after(10 * WAIT_SECONDS)
    assert "waiting for the disks before the guest is paused" in it.board.message
    it.in_step = True
    assert not await it.after(0)
    assert it.migration.calls == ["hold", "let go"] and it.board.message == ""


async def test_disks_whose_copy_was_paused_are_told_to_be() -> None:
    it = Gate()
    it.in_step, it.board.paused_by = False, "ann"
    assert await it.after(5)
    assert it.board.message.endswith("the copy is paused by ann")


async def test_a_guest_that_qemu_slows_does_not_wait_for_disks_for_long() -> None:
    it = Gate()
    it.in_step = False
    await it.after(WAIT_SECONDS)
    assert await it.after(SLOWED_DISKS_SECONDS, throttle=70)
    it.in_step = True
    assert not await it.after(0, throttle=70)
    it.in_step = False
    assert await it.after(SLOWED_DISKS_SECONDS, throttle=70)
    with pytest.raises(MoveFailed, match="more than 60 s"):
        await it.after(3, throttle=70)


async def test_a_guest_that_is_slowed_for_being_held_alone_is_held_on() -> None:
    it = Gate()
    it.registry.is_away = True
    assert await it.after(WAIT_SECONDS - 10, throttle=HELD_THROTTLE)
    it.registry.is_away, it.in_step = False, False
    assert await it.after(WAIT_SECONDS, throttle=HELD_THROTTLE)
    assert "waiting for the disks" in it.board.message


async def test_a_silent_registry_is_timed_from_its_own_silence_on() -> None:
    it = Gate()
    it.in_step = False
    assert await it.after(WAIT_SECONDS)
    it.registry.is_away = True
    assert await it.after(WAIT_SECONDS - 10)
    assert "waiting for the registry" in it.board.message
    with pytest.raises(Unreachable):
        await it.after(20)


async def test_before_qemu_begins_disks_are_waited_for_too(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Gate()
    it.in_step = False
    messages = []

    async def pause() -> None:
        messages.append(it.board.message)
        it.in_step = len(messages) == 3

    monkeypatch.setattr(pause_gate, "pause", pause)
    await it.gate.wait()
    assert len(messages) == 3 and all("waiting for the disks" in message for message in messages)
    assert it.board.message == ""
