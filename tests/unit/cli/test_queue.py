"""Tasks that wait, and what is done about tasks: how it reads, and what the manager hears."""

import json
from typing import Any

from kvmove.model.log import LogLine
from kvmove.model.task import TaskState
from tests.support import samples
from tests.support.fake_manager import FakeManager
from tests.unit.cli.conftest import Kvmove

REASON = "waits for h2: 8 of 8 units are taken by moves of web1 and db2"
NEW: dict[str, Any] = {"started": None, "progress": None, "started_by": "ann"}
QUEUED = samples.task(TaskState.QUEUED, queue_reason=REASON, position=2, **NEW)
ENDED = samples.task(TaskState.SUCCEEDED, report=samples.report(), vm_state="running on h2", revision=9)
ID = samples.MOVE_ID
LOG = [
    LogLine(time="2026-11-23T08:00:01.000+00:00", place="manager", level="INFO", text="move begins"),
    LogLine(time="2026-11-23T08:00:02.000+00:00", place="h1", level="WARNING", text="stream 1 was lost"),
]


def test_a_queued_task_shows_its_place_and_what_it_waits_for(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers[f"GET /tasks/{ID}"] = QUEUED
    shown = kvmove("task", "show", ID).out
    assert f"queued, 2nd in line: {REASON}" in shown
    assert "by ann" in shown
    manager.answers["GET /tasks"] = [QUEUED]
    assert f"#2, {REASON}" in kvmove("task", "list").out


def test_the_waiting_line_comes_once_for_each_place_and_then_the_bar(manager: FakeManager, kvmove: Kvmove) -> None:
    next_ = QUEUED.model_copy(update={"position": 1, "revision": 2})
    runs = samples.task(revision=3)
    manager.answers[f"GET /tasks/{ID}"] = QUEUED
    manager.streams[ID] = [[QUEUED, QUEUED.model_copy(update={"revision": 1}), next_, runs, ENDED]]
    result = kvmove("task", "watch", ID)
    assert result.code == 0
    lines = [line for line in result.err.splitlines() if line]
    assert lines[:2] == [f"queued, 2nd in line: {REASON}", f"queued, 1st in line: {REASON}"]
    assert "copying disks" in lines[2]


def test_a_move_that_is_queued_says_so_when_it_is_not_waited_for(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["POST /moves"] = QUEUED
    said = kvmove("move", "web1", "h2", "--no-wait", "-q").out
    assert said == f"Queued, 2nd in line: {REASON}. Watch it: kvmove task watch {ID}\n"


def test_set_sends_what_was_asked_for_and_nothing_else(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers[f"PATCH /tasks/{ID}"] = QUEUED
    assert kvmove("task", "set", ID, "--priority", "high").code == 0
    assert manager.asked[-1][1]["priority"] == "high"
    assert kvmove("task", "set", ID).code == 2


def test_a_retry_is_watched_to_its_end(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["POST /tasks/old:retry"] = QUEUED
    manager.streams[ID] = [[QUEUED, ENDED]]
    result = kvmove("task", "retry", "old")
    assert (result.code, "web1 moved from h1 to h2" in result.out) == (0, True)
    assert json.loads(kvmove("task", "retry", "old", "--no-wait", "-o", "json").out)["id"] == ID


def test_the_log_reads_by_time_and_has_every_form(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers[f"GET /tasks/{ID}/log"] = LOG
    lines = kvmove("task", "log", ID).out.splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["manager", "h1"]
    assert lines[2].endswith("stream 1 was lost")
    assert json.loads(kvmove("task", "log", ID, "-o", "json").out) == [line.model_dump(mode="json") for line in LOG]
