"""`kvmove move`, `task watch` and `task cancel`: what is printed where, and the exit code of every end."""

import json
import os
import signal
import threading
from typing import Any

import pytest

from kvmove.errors import (
    Busy,
    Cancelled,
    CheckFailed,
    KvmoveError,
    MoveFailed,
    NeedsAttention,
    NotConverged,
    Unreachable,
)
from kvmove.migration.findings import warning
from kvmove.model.move import MoveCheck, Phase
from kvmove.model.task import Task, TaskState
from tests.support import samples
from tests.support.fake_manager import FakeManager
from tests.unit.cli.conftest import Kvmove, Result

TASK = samples.task(progress=None)
DONE = samples.task(TaskState.SUCCEEDED, revision=9, report=samples.report(), progress=None, vm_state="running on h2")
STEPS = [
    samples.task(progress=samples.progress(phase, percent), revision=number)
    for number, (phase, percent) in enumerate(
        [
            (Phase.PREPARING, 1.0),
            (Phase.COPYING_DISKS, 40.0),
            (Phase.COPYING_MEMORY, 90.0),
            (Phase.SWITCHING_OVER, 99.0),
        ],
        start=1,
    )
]


def failed(error: KvmoveError, state: TaskState = TaskState.FAILED) -> Task:
    return samples.task(state, revision=9, problem=error.problem())


@pytest.fixture(autouse=True)
def ready(manager: FakeManager) -> None:
    """A manager that lets web1 move to h2, and takes it through all phases."""
    found = warning("not-encrypted", "memory and disks cross the network unencrypted", "do so where nobody listens")
    manager.answers["POST /moves:check"] = MoveCheck(plan=samples.plan(), findings=(found,))
    manager.answers["POST /moves"] = TASK
    manager.answers[f"GET /tasks/{TASK.id}"] = TASK
    manager.answers[f"POST /tasks/{TASK.id}:cancel"] = TASK
    manager.streams[TASK.id] = [[*STEPS, DONE]]


def body(manager: FakeManager, key: str) -> Any:
    return next(sent for asked, sent in manager.asked if asked == key)


def test_the_plan_comes_first_then_the_progress_then_the_report(kvmove: Kvmove) -> None:
    result = kvmove("move", "web1", "h2")
    assert result.code == 0
    plan, progress = result.err.index("web1  h1 → h2"), result.err.index("copying disks")
    assert plan < result.err.index("Warning: memory and disks cross") < progress
    assert result.out.startswith("web1 moved from h1 to h2 in 24.3 s; it stood still for 85 ms.\n")
    assert "equal on both sides" in result.out


def test_away_from_a_terminal_each_phase_has_its_line(kvmove: Kvmove) -> None:
    lines = [line for line in kvmove("move", "web1", "h2").err.splitlines() if "%" in line]
    for phase in ("preparing", "copying disks", "copying memory", "switching over"):
        assert any(phase in line for line in lines)


def test_what_is_asked_for_is_what_the_manager_hears(manager: FakeManager, kvmove: Kvmove) -> None:
    kvmove(
        "move", "web1", "h2", "--datastore", "fast", "--verify", "--no-tls", "--yes", "--nic", "mig0", "--nic", "mig1",
        "--max-downtime", "0.5s", "--disk", "data=big", "--disk", "swap=fast:qcow2", "--via", "storage",
        "--format", "raw", "--provisioning", "thick", "--flatten", "--priority", "high",
        "--at", "22:00", "--window", "22:00-06:00",
        "--accept", "bridge-apart", "--bandwidth", "50MiB", "--switchover", "2031-01-02T03:04:05+01:00",
        "--policy", "suspend-if-needed", "--max-slowdown", "40", "--max-write-latency", "20ms", "--compress", "on",
    )  # fmt: skip
    assert body(manager, "POST /moves") == {
        "vm": "web1", "host": "h2", "datastore": "fast", "verify": True, "encrypt": False, "nics": ["mig0", "mig1"],
        "max_downtime_ms": 500, "via": "storage", "format": "raw", "provisioning": "thick", "flatten": True,
        "priority": "high", "at": "22:00", "window": "22:00-06:00", "only_kind": None, "from_host": None,
        "accept": ["bridge-apart"],
        "bandwidth": 50 * 1024 * 1024, "switchover": "2031-01-02T03:04:05+01:00", "policy": "suspend-if-needed",
        "max_slowdown": 40, "max_write_latency_ms": 20, "compress": "on",
        "disks": {
            "data": {"datastore": "big", "format": None, "provisioning": None},
            "swap": {"datastore": "fast", "format": "qcow2", "provisioning": None},
        },
    }  # fmt: skip


def test_without_a_host_there_must_be_a_datastore(manager: FakeManager, kvmove: Kvmove) -> None:
    result = kvmove("move", "web1")
    assert result.code == 2
    assert "name a HOST, or a datastore" in result.err
    kvmove("move", "web1", "--datastore", "fast")
    assert body(manager, "POST /moves")["host"] is None


def test_a_disk_without_a_datastore_is_a_usage_error(kvmove: Kvmove) -> None:
    result = kvmove("move", "web1", "h2", "--disk", "data")
    assert result.code == 2
    assert "'data' is not NAME=VALUE" in result.err


def test_the_plain_move_is_encrypted_and_uses_all_nics(manager: FakeManager, kvmove: Kvmove) -> None:
    kvmove("move", "web1", "h2")
    sent = body(manager, "POST /moves")
    assert (sent["encrypt"], sent["nics"], sent["max_downtime_ms"]) == (True, [], 300)


def test_a_dry_run_prints_the_plan_and_starts_nothing(manager: FakeManager, kvmove: Kvmove) -> None:
    result = kvmove("move", "web1", "h2", "--dry-run")
    assert result.code == 0
    assert "web1  h1 → h2" in result.out
    assert "1 Gbit/s" in result.out
    assert "POST /moves" not in [key for key, _ in manager.asked]
    assert json.loads(kvmove("move", "web1", "h2", "--dry-run", "-o", "json").out)["plan"]["move_id"] == TASK.id


def test_without_waiting_the_task_is_told(manager: FakeManager, kvmove: Kvmove) -> None:
    assert f"kvmove task watch {TASK.id}" in kvmove("move", "web1", "h2", "--no-wait").out
    assert kvmove("move", "web1", "h2", "--no-wait", "-o", "name").out == f"{TASK.id}\n"
    assert json.loads(kvmove("move", "web1", "h2", "--no-wait", "-o", "json").out)["state"] == "running"


def test_json_is_the_task_at_its_end_and_nothing_else(kvmove: Kvmove) -> None:
    result = kvmove("move", "web1", "h2", "-o", "json")
    assert json.loads(result.out) == DONE.model_dump(mode="json")
    assert result.err == ""


def test_ndjson_is_the_task_at_each_change(kvmove: Kvmove) -> None:
    lines = kvmove("move", "web1", "h2", "-o", "ndjson").out.splitlines()
    assert [json.loads(line)["revision"] for line in lines] == [0, 1, 2, 3, 4, 9]


def test_quiet_leaves_the_report_alone(kvmove: Kvmove) -> None:
    result = kvmove("move", "web1", "h2", "-q")
    assert result.err == ""
    assert result.out.startswith("web1 moved")


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (MoveFailed("h2 has no space", hint="free some", step="copying disks"), TaskState.FAILED, 1),
        (NotConverged("the guest writes too fast"), TaskState.FAILED, 7),
        (Cancelled("as asked"), TaskState.CANCELLED, 6),
        (NeedsAttention("the registry does not answer"), TaskState.ATTENTION, 20),
        (MoveFailed("nobody knows"), TaskState.ATTENTION, 20),
    ],
)
def test_a_move_that_does_not_succeed_says_why_and_where_the_vm_is(
    error: KvmoveError, state: TaskState, code: int, manager: FakeManager, kvmove: Kvmove
) -> None:
    manager.streams[TASK.id] = [[*STEPS, failed(error, state)]]
    result = kvmove("move", "web1", "h2")
    assert (result.code, result.out) == (code, "")
    assert f"why:   {error.detail}" in result.err
    assert {
        TaskState.FAILED: "Error: web1 was not moved from h1 to h2",
        TaskState.CANCELLED: "Error: the move of web1 from h1 to h2 was cancelled",
        TaskState.ATTENTION: "Error: the move of web1 from h1 to h2 needs attention",
    }[state] in result.err
    assert "VM:    running on h1" in result.err
    as_json = kvmove("move", "web1", "h2", "-o", "json")
    assert as_json.code == code
    assert json.loads(as_json.out)["state"] == state
    assert json.loads(as_json.err)["detail"] == error.detail


def test_a_check_that_fails_names_every_blocker_on_its_line_and_starts_nothing(
    manager: FakeManager, kvmove: Kvmove
) -> None:
    manager.answers["POST /moves:check"] = CheckFailed(
        "h2 has no bridge br0; h2 has 1.0 GiB of memory free", hint="make br0; free memory", vm_state="running on h1"
    )
    result = kvmove("move", "web1", "h2")
    assert result.code == 3
    assert result.err.splitlines() == [
        "Error: The check before the start failed",
        "  why:   h2 has no bridge br0",
        "         h2 has 1.0 GiB of memory free",
        "  VM:    running on h1",
        "  hint:  make br0",
        "         free memory",
    ]
    assert "POST /moves" not in [key for key, _ in manager.asked]


def test_a_vm_that_moves_already_is_busy(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["POST /moves"] = Busy("web1 moves already", hint="kvmove task watch x")
    assert kvmove("move", "web1", "h2", "-q").code == 5


def test_a_start_without_an_answer_may_have_begun(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["POST /moves"] = Unreachable("gave no answer in time")
    result = kvmove("move", "web1", "h2", "-q")
    assert result.code == 9
    assert "hint:  the move may have begun all the same, see kvmove task list" in result.err


def test_unencrypted_needs_a_yes(manager: FakeManager, kvmove: Kvmove) -> None:
    result = kvmove("move", "web1", "h2", "--no-tls")
    assert result.code == 2
    assert "add --yes" in result.err
    assert manager.asked == []


@pytest.mark.parametrize("text", ["300", "fast", "-1s", "1 hour"])
def test_a_downtime_that_is_no_time_is_refused(text: str, kvmove: Kvmove) -> None:
    result = kvmove("move", "web1", "h2", "--max-downtime", text)
    assert result.code == 2
    assert "is not a time" in result.err


def test_a_downtime_out_of_bounds_is_refused_before_anything_is_asked(manager: FakeManager, kvmove: Kvmove) -> None:
    result = kvmove("move", "web1", "h2", "--max-downtime", "1ms")
    assert result.code == 2
    assert manager.asked == []


def test_a_manager_that_goes_away_meanwhile_is_asked_again(
    manager: FakeManager, kvmove: Kvmove, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmove.cli.waiting._RETRY_SECONDS", 0.01)
    manager.streams[TASK.id] = [STEPS[:2], [], [], STEPS[2:3], [DONE]]
    result = kvmove("move", "web1", "h2")
    assert result.code == 0
    assert result.err.count("The manager does not answer; trying again.") == 1


def test_watching_shows_a_move_to_its_end_with_its_exit_code(manager: FakeManager, kvmove: Kvmove) -> None:
    assert kvmove("task", "watch", TASK.id).out.startswith("web1 moved")
    manager.streams[TASK.id] = [[failed(MoveFailed("no space"))]]
    assert kvmove("task", "watch", TASK.id).code == 1


def test_watching_what_has_ended_tells_the_end(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers[f"GET /tasks/{TASK.id}"] = DONE
    assert kvmove("task", "watch", TASK.id).out.startswith("web1 moved")
    assert json.loads(kvmove("task", "watch", TASK.id, "-o", "ndjson").out)["revision"] == 9


def test_cancelling_waits_until_the_source_is_free_again(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.streams[TASK.id] = [[*STEPS[:2], failed(Cancelled("as asked"), TaskState.CANCELLED)]]
    result = kvmove("task", "cancel", TASK.id)
    assert (result.code, result.out) == (0, "Cancelled. web1 is running on h1.\n")
    assert (f"POST /tasks/{TASK.id}:cancel", None) in manager.asked


def test_cancelling_too_late_is_no_success(manager: FakeManager, kvmove: Kvmove) -> None:
    result = kvmove("task", "cancel", TASK.id)
    assert result.code == 5
    assert "too late" in result.err
    assert "VM:    running on h2" in result.err


def press_ctrl_c(times: int, manager: FakeManager, kvmove: Kvmove) -> Result:
    """Ctrl-C that often while the move stands at its last step."""
    ended = failed(Cancelled("as asked"), TaskState.CANCELLED)
    manager.streams[TASK.id] = [STEPS]
    pressed = threading.Event()

    def on_ask(key: str) -> None:
        if key.endswith("/events") and not pressed.is_set():
            pressed.set()
            for number in range(times):
                threading.Timer(0.2 + number / 10, os.kill, (os.getpid(), signal.SIGINT)).start()
        if key.endswith(":cancel"):
            manager.push(ended)

    manager.on_ask = on_ask
    return kvmove("move", "web1", "h2")


def test_one_ctrl_c_leaves_the_move_alone_and_says_how_to_come_back(
    manager: FakeManager, kvmove: Kvmove, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmove.cli.waiting.LEAVE_SECONDS", 0.1)
    result = press_ctrl_c(1, manager, kvmove)
    assert result.code == 130
    assert f"kvmove task watch {TASK.id}" in result.err
    assert f"kvmove task cancel {TASK.id}" in result.err
    assert f"POST /tasks/{TASK.id}:cancel" not in [key for key, _ in manager.asked]


def test_a_second_ctrl_c_cancels_and_waits_for_the_end(manager: FakeManager, kvmove: Kvmove) -> None:
    result = press_ctrl_c(2, manager, kvmove)
    assert f"POST /tasks/{TASK.id}:cancel" in [key for key, _ in manager.asked]
    assert result.code == 6
    assert "Asking to cancel" in result.err
