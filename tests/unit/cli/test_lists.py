"""Listing and showing: the table, the JSON forms and the names of every kind of thing."""

import json
from pathlib import Path
from typing import Any

import pytest

from kvmove.model.host import HostDatastore, HostStatus
from kvmove.model.task import TaskState
from kvmove.model.vm import VmState
from tests.support import samples
from tests.support.fake_manager import FakeManager
from tests.unit.cli.conftest import Kvmove

H1 = HostStatus(name="h1", control="10.0.0.1:7441", reachable=True, info=samples.host_info())
H2 = HostStatus(name="h2", control="10.0.0.2:7441", reachable=False, reason="Connection refused")
STORE = HostDatastore(host="h1", **dict(samples.host_info().datastores[0]))
ENDED = samples.task(TaskState.SUCCEEDED, id="aaaa", ended="2026-11-23T08:00:24.300+00:00", report=samples.report())

LISTS: dict[str, tuple[str, list[Any], list[str]]] = {
    "vm list": ("GET /vms", [samples.vm(), samples.vm("h2", VmState.UNKNOWN)], ["web1", "web1"]),
    "host list": ("GET /hosts", [H1, H2], ["h1", "h2"]),
    "datastore list": ("GET /datastores", [STORE], ["h1/local"]),
    "task list": ("GET /tasks", [samples.task(), ENDED], [samples.MOVE_ID, "aaaa"]),
}
SHOWS: dict[str, tuple[str, Any, str]] = {
    "vm show web1": ("GET /vms/web1", samples.vm(pid=4711, move_id=samples.MOVE_ID), "web1"),
    "host show h1": ("GET /hosts/h1", H1, "h1"),
    "host show h2": ("GET /hosts/h2", H2, "h2"),
    f"task show {samples.MOVE_ID}": (f"GET /tasks/{samples.MOVE_ID}", samples.task(), samples.MOVE_ID),
    "task show aaaa": ("GET /tasks/aaaa", ENDED, "aaaa"),
}


@pytest.mark.parametrize("command", LISTS)
def test_a_list_has_the_same_things_in_every_form(command: str, manager: FakeManager, kvmove: Kvmove) -> None:
    key, things, names = LISTS[command]
    manager.answers[key] = things
    table = kvmove(*command.split())
    assert table.code == 0
    assert len(table.out.splitlines()) == len(things) + 1
    assert json.loads(kvmove(*command.split(), "-o", "json").out) == [thing.model_dump(mode="json") for thing in things]
    lines = kvmove("-o", "ndjson", *command.split()).out.splitlines()
    assert [json.loads(line) for line in lines] == [thing.model_dump(mode="json") for thing in things]
    assert kvmove(*command.split(), "-o", "name").out.split() == names


@pytest.mark.parametrize("command", LISTS)
def test_an_empty_list_says_what_to_do_and_leaves_stdout_clean(
    command: str, manager: FakeManager, kvmove: Kvmove
) -> None:
    manager.answers[LISTS[command][0]] = []
    result = kvmove(*command.split())
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith("No ")
    assert kvmove(*command.split(), "-o", "json").out == "[]\n"
    assert kvmove(*command.split(), "-o", "ndjson").out == ""
    assert kvmove(*command.split(), "-q").err == ""


@pytest.mark.parametrize("command", SHOWS)
def test_one_thing_is_shown_in_every_form(command: str, manager: FakeManager, kvmove: Kvmove) -> None:
    key, thing, name = SHOWS[command]
    manager.answers["GET /hosts/h1"] = H1
    manager.answers[key] = thing
    assert name in kvmove(*command.split()).out
    assert json.loads(kvmove(*command.split(), "-o", "json").out) == thing.model_dump(mode="json")
    assert json.loads(kvmove(*command.split(), "-o", "ndjson").out) == thing.model_dump(mode="json")
    assert kvmove(*command.split(), "-o", "name").out == f"{name}\n"


def test_the_list_of_vms_reads_as_it_should(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["GET /vms"] = [samples.vm(), samples.vm("h2", VmState.RUNNING, move_id="x")]
    assert kvmove("vm", "list").out.splitlines() == [
        "NAME  STATE            HOST  VCPUS  MEMORY     DISKS         UUID",
        "web1  running          h1    2      512.0 MiB  root 2.0 GiB  11111111-1111-4111-8111-111111111111",
        "web1  running, moving  h2    2      512.0 MiB  root 2.0 GiB  11111111-1111-4111-8111-111111111111",
    ]


def test_a_host_that_does_not_answer_says_why_in_the_list(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["GET /hosts"] = [H1, H2]
    up, down = kvmove("host", "list").out.splitlines()[1:]
    assert "up" in up
    assert "mig0 1 Gbit/s" in up
    assert "no answer: Connection refused" in down


def test_only_running_tasks_are_listed_when_asked_for(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["GET /tasks"] = [samples.task(), ENDED]
    assert kvmove("task", "list", "--running", "-o", "name").code == 0
    assert manager.queries[-1] == "state=queued&state=running&limit=50"


def test_tasks_are_listed_by_state_vm_and_host(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["GET /tasks"] = [ENDED]
    kvmove("task", "list", "--state", "failed", "--vm", "web1", "--host", "h2", "--limit", "3")
    assert manager.queries[-1] == "state=failed&vm=web1&host=h2&limit=3"
    kvmove("task", "list", "--all")
    assert manager.queries[-1] == ""


def test_a_task_that_succeeded_is_shown_with_its_report(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["GET /tasks/aaaa"] = ENDED
    shown = kvmove("task", "show", "aaaa").out
    assert "web1 moved from h1 to h2 in 24.3 s; it stood still for 85 ms." in shown
    assert "drain mirror" in shown


def test_a_task_that_failed_is_shown_with_its_reason_and_is_no_error_itself(
    manager: FakeManager, kvmove: Kvmove
) -> None:
    problem = {"code": "MOVE_FAILED", "detail": "h2 has no space", "hint": "free some", "step": "copying-disks"}
    manager.answers["GET /tasks/bbbb"] = samples.task(TaskState.FAILED, id="bbbb", problem=problem)
    result = kvmove("task", "show", "bbbb")
    assert result.code == 0
    assert "why:   h2 has no space" in result.out
    assert "hint:  free some" in result.out
    assert "VM:    running on h1" in result.out


def test_a_folder_is_made_a_datastore_once(tmp_path: Path, kvmove: Kvmove) -> None:
    result = kvmove("datastore", "create", "local", str(tmp_path))
    assert result.code == 0
    assert f'[[datastore]]\nname = "local"\npath = "{tmp_path}"' in result.out
    assert kvmove("datastore", "create", "local", str(tmp_path)).code == 5
    assert kvmove("datastore", "create", "local", str(tmp_path / "none")).code == 4
