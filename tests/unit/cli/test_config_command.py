"""`kvmove config` and `kvmove api`."""

import json

import pytest

from tests.support import samples
from tests.support.fake_manager import FakeManager
from tests.unit.cli.conftest import Kvmove


def test_contexts_are_added_listed_chosen_and_forgotten(kvmove: Kvmove) -> None:
    assert "No contexts" in kvmove("config", "view").err
    assert kvmove("config", "set", "one", "--url", "unix:/one").code == 0
    assert kvmove("config", "set", "two", "--url", "https://h:7440", "--certificate", "/pki").code == 0
    assert json.loads(kvmove("config", "view", "--json").out) == [
        {"name": "one", "current": True, "server": "unix:/one", "pki": None},
        {"name": "two", "current": False, "server": "https://h:7440", "pki": "/pki"},
    ]
    assert kvmove("config", "use-context", "two").code == 0
    missed = kvmove("config", "use-context", "twoo")
    assert (missed.code, "did you mean two?" in missed.err) == (4, True)
    assert kvmove("config", "remove", "two").code == 0
    assert kvmove("config", "remove", "two").code == 4
    assert kvmove("config", "view", "-o", "name").out == "one\n"


def test_a_context_that_is_no_manager_changes_nothing(kvmove: Kvmove) -> None:
    kvmove("config", "set", "one", "--url", "unix:/one")
    done = kvmove("config", "set", "one", "--url", "ftp://h")
    assert (done.code, "is no manager" in done.err) == (2, True)
    assert json.loads(kvmove("config", "view", "--json").out)[0]["server"] == "unix:/one"


def test_the_winner_is_the_one_that_is_asked_and_the_losers_are_named(
    kvmove: Kvmove, monkeypatch: pytest.MonkeyPatch
) -> None:
    kvmove("config", "set", "one", "--url", "https://one:7440", "--certificate", "/one")
    monkeypatch.setenv("KVMOVE_SERVER", "unix:/two")

    def winner(key: str, *words: str) -> tuple[str, str]:
        (found,) = json.loads(kvmove("config", "explain", key, "--json", *words).out)
        return found["value"], found["source"]

    assert winner("server") == ("unix:/two", "KVMOVE_SERVER")
    assert winner("server", "--server", "unix:/three") == ("unix:/three", "--server")
    assert winner("server", "--context", "one") == ("https://one:7440", "--context one")
    assert winner("pki", "--context", "one") == ("/one", "the context that is asked")
    monkeypatch.delenv("KVMOVE_SERVER")
    assert winner("server")[0] == "https://one:7440"
    assert winner("output") == ("json", "-o or KVMOVE_OUTPUT")


def test_api_asks_what_it_is_told_to(kvmove: Kvmove, manager: FakeManager) -> None:
    manager.answers["GET /vms"] = [samples.vm()]
    assert json.loads(kvmove("api", "GET", "vms").out) == [samples.vm().model_dump(mode="json")]
    manager.answers["POST /moves:check"] = None
    done = kvmove("api", "POST", "moves:check", "-f", "vm=web1", "-f", "verify=true", "-f", "disks.root.datastore=fast")
    assert done.code == 0
    assert manager.asked[-1] == (
        "POST /moves:check",
        {"vm": "web1", "verify": True, "disks": {"root": {"datastore": "fast"}}},
    )


def test_an_answer_that_is_a_problem_is_an_error(kvmove: Kvmove, manager: FakeManager) -> None:
    done = kvmove("api", "GET", "nothing")
    assert done.code == 4
    assert kvmove("api", "GET", "events").code == 2
    assert kvmove("api", "GET", "vms", "-f", "x").code == 2
