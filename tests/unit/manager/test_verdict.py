"""What became of a move, from what is known."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.errors import Cancelled, MoveFailed
from kvmove.manager.verdict import (
    LOST_GRACE_SECONDS,
    SOURCE_GRACE_SECONDS,
    Evidence,
    forward_only,
    judge,
    told_by_source,
)
from kvmove.model.move import Phase
from kvmove.model.ownership import Ownership
from kvmove.model.task import TaskState
from kvmove.model.vm import VmState
from tests.support import samples

PLAN = samples.plan()
LONG = 10_000.0
ARRIVED = samples.vm("h2", epoch=2)

RECORDS = st.one_of(
    st.none(),
    st.builds(samples.owned, st.sampled_from(["h1", "h2", "h3"]), st.integers(1, 4)),
    st.just(samples.moving()),
)
EVIDENCE = st.builds(
    Evidence,
    seconds=st.floats(0, LONG),
    source_answers=st.booleans(),
    registry_answers=st.booleans(),
    record=RECORDS,
    destination_answers=st.booleans(),
    arrived=st.sampled_from([None, ARRIVED, *(samples.vm("h2", state) for state in VmState)]),
)


def evidence(record: Ownership | None, seconds: float = LONG, **more: Any) -> Evidence:
    fields: dict[str, Any] = {
        "seconds": seconds,
        "source_answers": False,
        "registry_answers": True,
        "record": record,
        "destination_answers": True,
        "arrived": None,
    }
    return Evidence(**fields | more)


@given(EVIDENCE)
def test_success_needs_the_commit_of_this_move_and_the_vm_at_its_destination(seen: Evidence) -> None:
    verdict = judge(PLAN, seen)
    if verdict is not None and verdict.state is TaskState.SUCCEEDED:
        assert seen.registry_answers
        assert seen.record == samples.owned("h2", 2)
        assert seen.destination_answers
        assert seen.arrived is not None
        assert seen.arrived.state not in (VmState.INCOMING, VmState.CRASHED)


@given(EVIDENCE)
def test_failure_is_said_only_while_the_source_owns_the_vm(seen: Evidence) -> None:
    verdict = judge(PLAN, seen)
    if verdict is not None and verdict.state is TaskState.FAILED:
        assert seen.record in (samples.owned("h1", 1), samples.owned("h1", 2))


@given(EVIDENCE)
def test_a_silent_registry_leaves_the_move_open(seen: Evidence) -> None:
    if not seen.registry_answers:
        assert judge(PLAN, seen) is None


@given(EVIDENCE)
def test_a_silent_source_never_leads_to_calling_a_person(seen: Evidence) -> None:
    verdict = judge(PLAN, seen)
    if not seen.source_answers and verdict is not None:
        assert verdict.state is not TaskState.ATTENTION


@given(EVIDENCE)
def test_every_end_but_success_says_why_and_where_the_vm_is(seen: Evidence) -> None:
    verdict = judge(PLAN, seen)
    if verdict is not None:
        assert verdict.vm_state
        assert (verdict.error is None) == (verdict.state is TaskState.SUCCEEDED)


def test_a_committed_move_waits_a_while_for_the_report_of_a_silent_source() -> None:
    record = samples.owned("h2", 2)
    assert judge(PLAN, evidence(record, SOURCE_GRACE_SECONDS - 1, arrived=ARRIVED)) is None
    verdict = judge(PLAN, evidence(record, SOURCE_GRACE_SECONDS, arrived=ARRIVED))
    assert verdict is not None
    assert (verdict.state, verdict.vm_state) == (TaskState.SUCCEEDED, "running on h2")


@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_the_destination_under_another_epoch_proves_nothing_of_this_move(epoch: int) -> None:
    seen = evidence(samples.owned("h2", epoch), source_answers=True, arrived=samples.vm("h2", epoch=epoch))
    verdict = judge(PLAN, seen)
    assert verdict is not None
    assert verdict.state is TaskState.ATTENTION


def test_an_undone_move_has_failed_though_its_host_is_silent() -> None:
    verdict = judge(PLAN, evidence(samples.owned("h1", 2)))
    assert verdict is not None
    assert verdict.state is TaskState.FAILED
    assert verdict.vm_state == "belongs to h1, which does not answer"


def test_while_the_registry_says_moving_a_silent_source_leaves_it_open_for_ever() -> None:
    assert judge(PLAN, evidence(samples.moving())) is None


def test_a_move_that_a_living_source_does_not_know_never_began() -> None:
    record = samples.owned("h1", 1)
    assert judge(PLAN, evidence(record, source_answers=True, seconds=SOURCE_GRACE_SECONDS - 1)) is None
    verdict = judge(PLAN, evidence(record, source_answers=True))
    assert verdict is not None
    assert isinstance(verdict.error, MoveFailed)
    assert "never began" in verdict.error.detail


def test_a_silent_source_may_yet_begin() -> None:
    assert judge(PLAN, evidence(samples.owned("h1", 1))) is None


@pytest.mark.parametrize("record", [None, samples.moving(), samples.owned("h3", 5), samples.owned("h1", 3)])
def test_a_contradiction_calls_a_person_after_a_while(record: Ownership | None) -> None:
    assert judge(PLAN, evidence(record, LOST_GRACE_SECONDS - 1, source_answers=True)) is None
    verdict = judge(PLAN, evidence(record, LOST_GRACE_SECONDS, source_answers=True))
    assert verdict is not None
    assert verdict.state is TaskState.ATTENTION


@pytest.mark.parametrize("state", [VmState.INCOMING, VmState.CRASHED])
def test_a_vm_handed_over_and_not_running_there_calls_a_person(state: VmState) -> None:
    seen = evidence(samples.owned("h2", 2), source_answers=True, arrived=samples.vm("h2", state, epoch=2))
    verdict = judge(PLAN, seen)
    assert verdict is not None
    assert verdict.state is TaskState.ATTENTION


@pytest.mark.parametrize(
    ("outcome", "problem", "state"),
    [
        (Phase.COMPLETED, None, TaskState.SUCCEEDED),
        (Phase.ABORTED, MoveFailed("no space").problem(), TaskState.FAILED),
        (Phase.ABORTED, Cancelled("as asked").problem(), TaskState.CANCELLED),
        (Phase.ABORTED, None, TaskState.FAILED),
        (Phase.LOST, None, TaskState.FAILED),
        (Phase.IN_DOUBT, None, TaskState.ATTENTION),
    ],
)
def test_the_sources_word_on_the_end_is_taken(
    outcome: Phase, problem: dict[str, object] | None, state: TaskState
) -> None:
    fields = told_by_source(samples.status(outcome, outcome=outcome, problem=problem), None)
    assert fields["state"] is state
    assert (fields["problem"] is None) == (state is TaskState.SUCCEEDED)


def test_a_move_under_way_ends_nothing() -> None:
    assert "state" not in told_by_source(samples.status(), None)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1 << 40)), min_size=1))
def test_what_is_shown_never_runs_backwards(steps: list[tuple[float, int]]) -> None:
    shown = None
    for percent, done in steps:
        now = samples.progress().model_copy(
            update={"percent": percent, "bytes_done": done, "elapsed_seconds": percent / 2}
        )
        held = forward_only(shown, now)
        assert held.percent >= percent
        assert held.bytes_done >= done
        if shown is not None:
            assert held.percent >= shown.percent
            assert held.bytes_done >= shown.bytes_done
            assert held.elapsed_seconds >= shown.elapsed_seconds
        shown = held
