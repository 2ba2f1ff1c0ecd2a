"""Every state that the hand-over can come to, with all losses, repetitions, delays, crashes and restarts: no two guests
at once, no guest without the right, no memory thrown away, and always a way on."""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.support.hand_over_model import DESTINATION, HISTORY, SOURCE, START, Guest, HandOver, World, owner

COMPLETE = (Guest.PAUSED, Guest.RUNNING)


class Explored(NamedTuple):
    """All worlds, how each was first come to, and the steps between them that need no bad luck."""

    came_by: dict[World, tuple[World, str] | None]
    before: dict[World, list[World]]

    def path(self, world: World) -> str:
        """The steps that lead to `world`, one a line, for whoever has to understand a failure."""
        names = []
        here = self.came_by[world]
        while here is not None:
            names.append(here[1])
            here = self.came_by[here[0]]
        return "\n".join(reversed(names))


def explore(rules: HandOver) -> Explored:
    came_by: dict[World, tuple[World, str] | None] = {START: None}
    before: dict[World, list[World]] = {}
    todo = deque([START])
    while todo:
        world = todo.popleft()
        for name, after, fault in rules.steps(world):
            if after == world:
                continue
            if not fault:
                before.setdefault(after, []).append(world)
            if after not in came_by:
                came_by[after] = (world, name)
                todo.append(after)
    return Explored(came_by, before)


@pytest.fixture(scope="module")
def explored() -> Explored:
    return explore(HandOver())


def two_may_run(world: World) -> bool:
    """Both run, or both will without asking anyone again."""
    both_run = world.source.guest is world.destination.guest is Guest.RUNNING
    source = "resumed" in {world.source.view, world.source.journal}
    destination = world.destination.view == "owning" or world.destination.journal == "cont"
    return both_run or (source and destination)


def one_runs_without_right(world: World) -> bool:
    return (world.source.guest is Guest.RUNNING and owner(world.record) != SOURCE) or (
        world.destination.guest is Guest.RUNNING and owner(world.record) != DESTINATION
    )


def memory_is_thrown_away(world: World) -> bool:
    """On purpose: what died by itself is not counted."""
    if world.source.guest is Guest.DISCARDED and not world.ran_there:
        return True
    if world.destination.guest is Guest.DISCARDED and owner(world.record) == DESTINATION:
        return True
    return not world.hurt and world.source.guest not in COMPLETE and world.destination.guest not in COMPLETE


VIOLATIONS = (two_may_run, one_runs_without_right, memory_is_thrown_away)


def runs(world: World) -> bool:
    return Guest.RUNNING in {world.source.guest, world.destination.guest}


def can_be_started_again(world: World) -> bool:
    """Its QEMU is gone, and the owner's agent knows that it is the owner."""
    if owner(world.record) == SOURCE:
        return world.source.guest is Guest.ENDED and world.source.up and world.source.view == "resumed"
    return world.destination.guest is Guest.ENDED and world.destination.up and world.destination.view == "owning"


def stuck(explored: Explored, of: set[World], goals: set[World]) -> set[World]:
    """Those of `of` from which no goal is reached by parties that do their work."""
    reaching, todo = set(goals), list(goals)
    while todo:
        for world in explored.before.get(todo.pop(), []):
            if world not in reaching:
                reaching.add(world)
                todo.append(world)
    return of - reaching


def dead_ends(explored: Explored) -> set[World]:
    """Worlds from which nobody ever runs the VM or can start it again."""
    worlds = set(explored.came_by)
    return stuck(explored, worlds, {world for world in worlds if runs(world) or can_be_started_again(world)})


def wasted_memories(explored: Explored) -> set[World]:
    """Worlds in which the source still holds the memory, nothing ran since, and yet it will not go on from it."""
    worlds = set(explored.came_by)
    held = {
        world
        for world in worlds
        if world.source.guest is Guest.PAUSED and not world.ran_there and world.destination.journal != "cont"
    }
    return stuck(explored, held, {world for world in worlds if runs(world)})


def test_the_model_is_worth_exploring(explored: Explored) -> None:
    """Every outcome is reached, so the checks below are not true for want of cases."""
    worlds = explored.came_by
    assert len(worlds) > 5_000
    assert {world.record for world in worlds} == set(HISTORY)
    assert any(world.source.guest is Guest.RUNNING and world.record == "taken back" for world in worlds)
    assert any(world.source.guest is Guest.RUNNING and world.record == "aborted" for world in worlds)
    assert any(world.destination.guest is Guest.RUNNING and SOURCE in world.hurt for world in worlds)


@pytest.mark.parametrize("violation", VIOLATIONS, ids=lambda it: it.__name__)
def test_no_state_is_wrong(explored: Explored, violation: Callable[[World], bool]) -> None:
    for world in explored.came_by:
        assert not violation(world), f"{world} after:\n{explored.path(world)}"


def test_from_every_state_the_vm_runs_again(explored: Explored) -> None:
    for world in dead_ends(explored):
        pytest.fail(f"nobody can run it again in {world} after:\n{explored.path(world)}")


def test_memory_that_the_source_still_holds_is_never_in_vain(explored: Explored) -> None:
    for world in wasted_memories(explored):
        pytest.fail(f"the source's memory is lost in {world} after:\n{explored.path(world)}")


def test_the_registry_never_goes_back(explored: Explored) -> None:
    for world, came_by in explored.came_by.items():
        if came_by is not None:
            assert came_by[0].record in HISTORY[world.record]


@pytest.mark.parametrize(
    ("flaw", "harm"),
    [
        ("source resumes by timeout", "two_may_run"),
        ("yield is not journaled", "two_may_run"),
        ("destination runs before the commit", "one_runs_without_right"),
        ("lost answer is failure", "memory_is_thrown_away"),
        ("source discards at commit", "memory_is_thrown_away"),
        ("no take-back", "dead end"),
        ("take-back after intent", "two_may_run"),
    ],
)
def test_a_planted_flaw_is_found(flaw: str, harm: str) -> None:
    explored = explore(HandOver(flaw))
    found = [violation.__name__ for violation in VIOLATIONS if any(map(violation, explored.came_by))]
    found += ["dead end"] if dead_ends(explored) else []
    found += ["wasted memory"] if wasted_memories(explored) else []
    assert harm in found
