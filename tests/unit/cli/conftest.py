"""What every test of the command line needs: a manager that says what it is told, and a way to run a command."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kvmove.cli.main import run
from tests.support.fake_manager import FakeManager, running_manager


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Kvmove = Callable[..., Result]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[FakeManager]:
    with running_manager(tmp_path) as fake:
        yield fake


@pytest.fixture
def kvmove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Kvmove:
    """Runs a command with the fake manager as its server, and no configuration of the user's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("KVMOVE_SERVER", f"unix:{tmp_path / 'manager.sock'}")
    for name in ("KVMOVE_CONTEXT", "KVMOVE_PKI", "KVMOVE_TOKEN", "KVMOVE_CA"):
        monkeypatch.delenv(name, raising=False)

    def call(*words: str) -> Result:
        code = run(words)
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call
