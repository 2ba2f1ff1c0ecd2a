"""Completion as a shell asks for it: names that there are, kept for a while, and never a wait."""

import json
import os
import time
from pathlib import Path

import pytest

from kvmove.cli import live_names
from kvmove.cli.completion import SHELLS
from kvmove.cli.main import cli
from kvmove.cli.options import Options
from kvmove.model.host import HostStatus
from tests.support import samples
from tests.support.fake_manager import FakeManager
from tests.unit.cli.conftest import Kvmove


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kvmove"


@pytest.fixture
def known(manager: FakeManager) -> FakeManager:
    manager.answers["GET /vms"] = [samples.vm()]
    manager.answers["GET /hosts"] = [HostStatus(name="h1", control="10.0.0.1:7441", reachable=True)]
    manager.answers["GET /datastores"] = []
    manager.answers["GET /tasks"] = [samples.task()]
    return manager


def completed(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a bash gets for the last word of `line`."""
    monkeypatch.setenv("_KVMOVE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    with pytest.raises(SystemExit):
        cli.main([], prog_name="kvmove", obj=Options())
    return [word.partition(",")[2] for word in capsys.readouterr().out.splitlines() if word]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("kvmove ev", ["events"]),
        ("kvmove vm sho", ["show"]),
        ("kvmove vm show ", ["web1"]),
        ("kvmove move w", ["web1"]),
        ("kvmove move web1 ", ["h1"]),
        ("kvmove task show 7f", [samples.MOVE_ID]),
        ("kvmove vm define f --host ", ["h1"]),
        ("kvmove vm list -o nd", ["ndjson"]),
        ("kvmove doctor --he", ["--here", "--help"]),
        ("kvmove vm show z", []),
    ],
)
def test_what_is_completed(
    known: FakeManager, kvmove: Kvmove, line: str, words: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert completed(line, monkeypatch, capsys) == words


def test_names_are_kept_and_asked_for_again_when_they_are_old(
    known: FakeManager, kvmove: Kvmove, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert live_names.known_names("vm", None) == {"web1": "running on h1"}
    asked = len(known.asked)
    known.answers["GET /vms"] = []
    assert live_names.known_names("vm", None) == {"web1": "running on h1"}
    assert len(known.asked) == asked
    monkeypatch.setattr(live_names, "KEPT_SECONDS", 0.0)
    assert live_names.known_names("vm", None) == {}


def test_a_manager_that_is_away_is_asked_once_and_what_was_known_is_offered(
    known: FakeManager, kvmove: Kvmove, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    live_names.known_names("vm", None)
    (file,) = cache.iterdir()
    kept = json.loads(file.read_text())
    known.socket.rename(tmp_path / "away")
    for _ in range(2):
        file.write_text(json.dumps({**kept, "at": time.time() - 60}))
        assert live_names.known_names("vm", None) == {"web1": "running on h1"}
        assert time.time() - json.loads(file.read_text())["at"] < 30
    (tmp_path / "away").rename(known.socket)


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"at": "x", "names": {}}', '{"at": 1.0, "names": 3}'])
def test_a_damaged_cache_is_no_trouble(known: FakeManager, kvmove: Kvmove, cache: Path, damaged: str) -> None:
    live_names.known_names("vm", None)
    (file,) = cache.iterdir()
    file.write_text(damaged)
    assert live_names.known_names("host", None) == {"h1": "up"}


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_script(kvmove: Kvmove, shell: str) -> None:
    done = kvmove("completion", shell)
    assert done.code == 0
    assert "_KVMOVE_COMPLETE" in done.out
    assert os.linesep in done.out
