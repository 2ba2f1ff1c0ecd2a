"""The product's own hand-over, with something going wrong at every step, and at every two: never two guests, never one
without the right, no memory thrown away, and always an end. Planted mistakes are found by the same search."""

import asyncio
import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmove.errors import KvmoveError
from kvmove.migration import clean_up, destination, move_board, recovery, switchover
from kvmove.migration.destination import IncomingMove, IncomingState
from kvmove.migration.move_record import record_committed, record_under_way
from kvmove.migration.switchover import Decision
from kvmove.model.ownership import Ownership
from kvmove.qemu import run_control
from kvmove.registry import ownership
from tests.support.hand_over_rig import PLAN, Fault, Rig, Violation, client_of

STEPS = 20
"""No run without a fault is longer."""


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def pause() -> None:
        await asyncio.sleep(0)

    for sync in ("fsync", "fdatasync"):  # what is tested here is what is written, not that it is durable
        monkeypatch.setattr(os, sync, lambda descriptor: None)

    async def features(monitor: object) -> None:
        return None

    for module in (switchover, destination, recovery):
        monkeypatch.setattr(module, "pause", pause)
    for module in (destination, recovery):
        monkeypatch.setattr(module, "find_features", features)
    monkeypatch.setattr(move_board, "REGISTRY_RETRY_SECONDS", 0)
    monkeypatch.setattr(clean_up, "RETRY_SECONDS", 0)


class Search:
    """Runs schedules one after the other, each in a folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._monkeypatch = monkeypatch

    def run(self, schedule: Mapping[int, Fault]) -> Rig:
        """:raise Violation: with the steps that led to it."""
        rig = Rig(self._folder / str(next(self._numbers)), schedule)
        self._monkeypatch.setattr(recovery, "AgentClient", client_of(rig))
        try:
            asyncio.run(rig.run())
        except Violation as violation:
            raise Violation("\n".join([str(violation), *rig.steps[:80]])) from violation
        return rig

    def finds(self, schedules: Iterator[dict[int, Fault]]) -> bool:
        """Whether one of them leads to what must never be."""
        try:
            for schedule in schedules:
                self.run(schedule)
        except Violation:
            return True
        return False


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Iterator[Search]:
    """Its journals, thousands of small files, are in memory: a busy disk would make minutes of seconds."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Search(Path(folder), monkeypatch)


def single_faults() -> Iterator[dict[int, Fault]]:
    return ({step: fault} for step in range(STEPS) for fault in Fault)


def crashes(steps: list[str], after: int = -1) -> Iterator[dict[int, Fault]]:
    """A crash of either agent at each of these steps, and, of a swap, that it arrives late."""
    for number, step in enumerate(steps):
        if number > after:
            yield {number: Fault.CRASH}
            yield {number: Fault.OTHER_CRASH}
            if step.endswith(" swap"):
                yield {number: Fault.LATE}


def two_crashes(search: Search) -> Iterator[dict[int, Fault]]:
    """Every two that come to pass: what the steps are after the first crash, a run with it alone tells.

    :raise Violation: one crash is enough.
    """
    for first in crashes(search.run({}).steps):
        for second in crashes(search.run(first).steps, after=max(first)):
            yield first | second


def test_without_a_fault_the_guest_runs_at_the_destination(search: Search) -> None:
    rig = search.run({})
    assert rig.guests["h2"].running
    assert not rig.guests["h1"].alive
    assert len(rig.steps) < STEPS


def test_every_single_fault_at_every_step(search: Search) -> None:
    for schedule in single_faults():
        search.run(schedule)


def test_every_two_crashes(search: Search) -> None:
    seen = {len(search.run(schedule).struck) for schedule in two_crashes(search)}
    assert seen == {2}, "each schedule did happen"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schedule=st.dictionaries(st.integers(0, 2 * STEPS), st.sampled_from(Fault), max_size=6))
def test_any_faults(search: Search, schedule: dict[int, Fault]) -> None:
    search.run(schedule)


# Planted mistakes.


def test_cont_before_the_commit_is_found(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = IncomingMove._commit

    async def early(self: IncomingMove) -> Ownership:
        assert self._instance is not None
        await run_control.cont(self._instance.monitor)
        return await honest(self)

    monkeypatch.setattr(IncomingMove, "_commit", early)
    assert search.finds(single_faults())


def test_an_abort_that_is_guessed_is_found(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    async def guess(registry: Any, expected: Ownership, new: Ownership, pause: Any) -> Ownership:
        try:
            stored: Ownership = await registry.swap(expected, new)
            return stored
        except KvmoveError:
            return new

    monkeypatch.setattr(switchover, "swap_until_known", guess)
    assert search.finds(single_faults())


def test_giving_back_what_may_have_run_is_found(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    async def give_back(self: IncomingMove, instance: Any, won: Ownership, error: KvmoveError) -> None:
        await self._give_back(won, error.detail)

    monkeypatch.setattr(IncomingMove, "_after_failed_cont", give_back)
    assert search.finds(single_faults())


def test_a_source_that_ends_its_guest_at_the_commit_is_found(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = switchover.decide

    async def hasty(plan: Any, host: Any, client: Any, in_doubt: Any) -> Decision:
        if await host.registry.get(plan.vm.uuid) == record_committed(plan):
            return Decision(record_committed(plan))
        return await honest(plan, host, client, in_doubt)

    monkeypatch.setattr(recovery, "decide", hasty)
    assert search.finds(single_faults())


def test_a_restarted_destination_that_does_not_wait_for_the_registry_is_found(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = IncomingMove._take_up

    async def hasty(self: IncomingMove, stored: Ownership | None) -> None:
        if stored == record_under_way(PLAN):
            await self._discard(IncomingState.DISCARDED)
        else:
            await honest(self, stored)

    monkeypatch.setattr(IncomingMove, "_take_up", hasty)
    assert search.finds(two_crashes(search))


def test_taking_back_by_the_journal_alone_is_found(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgets(self: IncomingMove, won: Ownership) -> None:
        await self._give_back(won, "it was restarted")

    monkeypatch.setattr(IncomingMove, "_take_up_won", forgets)
    assert search.finds(single_faults())
    assert ownership.legal(record_committed(PLAN), ownership.take_back(record_committed(PLAN), "h1"))
