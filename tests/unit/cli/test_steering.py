"""`kvmove task pause`, `resume`, `switchover`, `set`: what the manager hears, and what is printed."""

import json

import pytest

from kvmove.errors import Busy, InvalidInput
from tests.support import samples
from tests.support.fake_manager import FakeManager
from tests.unit.cli.conftest import Kvmove

TASK = samples.task()


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("pause", f"Paused. Go on with: kvmove task resume {TASK.id}"),
        ("resume", f"Goes on. Watch it: kvmove task watch {TASK.id}"),
        ("switchover", f"Told to switch over as soon as it is in step. Watch it: kvmove task watch {TASK.id}"),
    ],
)
def test_a_word_is_passed_on(manager: FakeManager, kvmove: Kvmove, verb: str, said: str) -> None:
    manager.answers[f"POST /tasks/{TASK.id}:{verb}"] = TASK
    result = kvmove("task", verb, TASK.id)
    assert (result.code, result.out.strip()) == (0, said)
    assert json.loads(kvmove("task", verb, TASK.id, "-o", "json").out)["id"] == TASK.id
    manager.answers[f"POST /tasks/{TASK.id}:{verb}"] = Busy("too late")
    assert kvmove("task", verb, TASK.id).code == Busy.exit_code


def test_what_is_set_is_what_the_manager_hears(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers[f"PATCH /tasks/{TASK.id}"] = TASK
    assert kvmove("task", "set", TASK.id, "--bandwidth", "50MiB", "--max-downtime", "0.5s").code == 0
    assert kvmove("task", "set", TASK.id, "--bandwidth", "none").code == 0
    asked = [body for key, body in manager.asked if key.startswith("PATCH")]
    nothing = {"bandwidth": None, "max_downtime_ms": None, "priority": None}
    assert asked == [nothing | {"bandwidth": 52_428_800, "max_downtime_ms": 500}, nothing | {"bandwidth": 0}]


@pytest.mark.parametrize("words", [(), ("--bandwidth", "fast"), ("--bandwidth", "1KiB"), ("--max-downtime", "1ms")])
def test_what_is_wrong_is_refused_here(manager: FakeManager, kvmove: Kvmove, words: tuple[str, ...]) -> None:
    result = kvmove("task", "set", TASK.id, *words)
    assert result.code == InvalidInput.exit_code
    assert manager.asked == []
