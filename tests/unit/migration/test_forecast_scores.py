"""What past moves teach: each phase by itself, moves of their own kind alone, and never further than they say."""

import pytest

from kvmove.migration.forecast_scores import corrections, error_of, past_error, scored
from kvmove.model.forecast import Forecast
from kvmove.model.move import HostRef, MoveKind, MovePlan, MoveReport, PhaseTime
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import Power
from tests.support import samples

PARTS = {"preparing": 0.4, "copying-disks": 9.05, "copying-memory": 4.2, "downtime": 0.1}
SAID = Forecast(
    seconds_low=10, seconds=20, seconds_high=30, bytes=1, downtime_ms=100, converges=True, why="", parts=PARTS
)  # fmt: skip


def ended(plan: MovePlan | None = None, report: MoveReport | None = None, **more: object) -> Task:
    """A move that was forecast: `samples.report` says 0.8, 18.1 and 4.2 s, and 85.4 ms."""
    said = samples.task(
        TaskState.SUCCEEDED, plan=plan or samples.plan(), report=report or samples.report(), forecast=SAID
    )
    return said.model_copy(update=more)


def test_a_phase_that_always_took_twice_as_long_is_forecast_so_the_more_the_oftener_it_did() -> None:
    once = corrections(samples.plan(), [ended()])["copying-disks"]
    often = corrections(samples.plan(), [ended()] * 10)
    assert 1.3 < once.factor < often["copying-disks"].factor < 2
    assert often["copying-disks"].factor == pytest.approx(2, rel=0.1)
    assert often["copying-memory"].factor == pytest.approx(1)
    assert often["downtime"].factor == pytest.approx(0.854, rel=0.05)
    assert once.unsure is not None
    assert often["copying-disks"].unsure is not None
    assert often["copying-disks"].unsure < once.unsure


def test_moves_that_scatter_make_the_next_forecast_less_sure() -> None:
    def took(seconds: float) -> Task:
        phases = tuple(PhaseTime(phase=it.phase, seconds=seconds) for it in samples.report().phases[1:2])
        return ended(report=samples.report().model_copy(update={"phases": phases}))

    steady = corrections(samples.plan(), [took(18)] * 6)["copying-disks"]
    wild = corrections(samples.plan(), [took(6), took(40)] * 3)["copying-disks"]
    assert steady.unsure is not None
    assert wild.unsure is not None
    assert wild.unsure > 3 * steady.unsure


def test_a_move_of_another_kind_or_power_teaches_nothing() -> None:
    storage = samples.plan().model_copy(update={"destination": HostRef(name="h1", control="10.0.0.1:7441")})
    off = samples.plan().model_copy(update={"power": Power.OFF})
    assert corrections(samples.plan(), [ended(storage), ended(off)]) == {}


def test_a_move_that_is_less_alike_counts_less() -> None:
    other = samples.plan().model_copy(update={"encrypt": False})
    alike, unlike = (corrections(samples.plan(), [ended(plan)])["copying-disks"].factor for plan in (None, other))
    assert unlike < alike


def test_moves_with_and_without_disks_teach_each_other_what_they_share_but_less() -> None:
    host = samples.plan().model_copy(update={"disks": ()})
    assert host.kind is MoveKind.HOST
    own, other = corrections(samples.plan(), [ended()])["preparing"], corrections(host, [ended()])["preparing"]
    assert 1 < other.factor < own.factor


def test_one_mishap_among_many_moves_changes_little() -> None:
    phases = tuple(it.model_copy(update={"seconds": 9000.0}) for it in samples.report().phases)
    stuck = samples.report().model_copy(update={"phases": phases})
    found = corrections(samples.plan(), [ended(report=stuck), *[ended()] * 6])
    assert found["copying-disks"].factor == pytest.approx(2, rel=0.1)


def test_only_moves_that_succeeded_and_were_forecast_are_scored() -> None:
    tasks = [ended(), samples.task(), ended(forecast=None), samples.task(TaskState.FAILED, forecast=SAID)]
    tasks.append(ended(state=TaskState.ATTENTION))
    assert scored(tasks) == tasks[:1]


def test_the_past_error_is_the_median() -> None:
    assert past_error([]) is None
    assert error_of(SAID, 25.0) == pytest.approx(0.2)
    tasks = [ended(report=samples.report().model_copy(update={"seconds": real})) for real in (20.0, 25.0, 40.0)]
    assert past_error(tasks) == pytest.approx(0.2)
