"""How failures are told, and their exit codes."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from kvmove.cli.failure import failure_block
from kvmove.errors import (
    Busy,
    Cancelled,
    CheckFailed,
    InvalidInput,
    KvmoveError,
    MoveFailed,
    NeedsAttention,
    NotAllowed,
    NotConverged,
    NotFound,
    QemuError,
    Unreachable,
)
from tests.support.fake_manager import FakeManager
from tests.unit.cli.conftest import Kvmove

KINDS: list[tuple[KvmoveError, int]] = [
    (MoveFailed("x"), 1),
    (QemuError("migrate", "GenericError", "x"), 1),
    (InvalidInput("x"), 2),
    (CheckFailed("x"), 3),
    (NotFound("x"), 4),
    (Busy("x"), 5),
    (Cancelled("x"), 6),
    (NotConverged("x"), 7),
    (NotAllowed("x"), 8),
    (Unreachable("x"), 9),
    (NeedsAttention("x"), 20),
]


@pytest.mark.parametrize(("error", "code"), KINDS, ids=lambda it: type(it).__name__)
def test_each_kind_has_its_exit_code_and_its_json(
    error: KvmoveError, code: int, manager: FakeManager, kvmove: Kvmove
) -> None:
    error.hint, error.vm_state, error.step = "do this", "running on h1", "copying disks"
    manager.answers["GET /vms"] = error
    plain, as_json = kvmove("vm", "list"), kvmove("vm", "list", "-o", "json")
    assert (plain.code, plain.out) == (as_json.code, as_json.out) == (code, "")
    assert json.loads(as_json.err)["hint"] == "do this"
    assert plain.err.splitlines()[1:] == [
        f"  why:   {error.detail}",
        "  step:  copying disks",
        "  VM:    running on h1",
        "  hint:  do this",
    ]


def test_what_is_not_known_is_left_out() -> None:
    assert failure_block(NotFound("there is no VM 'x'")).plain == "Error: Not found\n  why:   there is no VM 'x'"


def test_escape_sequences_from_elsewhere_do_not_reach_the_terminal() -> None:
    console = Console(force_terminal=True, width=80)
    with console.capture() as shown:
        console.print(failure_block(NotFound("evil \x1b]0;title\x07 \x1b[2J name", hint="\x9b31m")))
    assert "\x1b]" not in shown.get()
    assert "\x1b[2J" not in shown.get()
    assert "\x9b" not in shown.get()


def test_without_a_manager_the_socket_is_named(kvmove: Kvmove) -> None:
    result = kvmove("vm", "list")
    assert result.code == 9
    assert "manager.sock does not exist" in result.err


def test_a_command_that_there_is_not_brings_a_close_one(kvmove: Kvmove) -> None:
    result = kvmove("mvoe", "web1", "h2")
    assert (result.code, result.out) == (2, "")
    assert "Did you mean move?" in result.err


@pytest.mark.parametrize("words", [("vm", "lst"), ("move",), ("move", "--what"), ("-o", "xml", "vm", "list"), ("zzz",)])
def test_usage_errors_have_the_exit_code_2(words: tuple[str, ...], kvmove: Kvmove) -> None:
    assert kvmove(*words).code == 2


def test_a_usage_error_is_json_too_when_asked_for(kvmove: Kvmove) -> None:
    result = kvmove("-o", "json", "move", "web1")
    assert result.code == 2
    assert json.loads(result.err)["code"] == "INVALID_INPUT"


def test_a_fault_of_ours_shows_no_stack_trace_but_with_v(kvmove: Kvmove, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("kvmove.cli.vm.ask", planted)
    result = kvmove("vm", "list")
    assert result.code == 1
    assert "ZeroDivisionError: planted" in result.err
    assert "Traceback" not in result.err
    with pytest.raises(ZeroDivisionError):
        kvmove("-v", "vm", "list")


@pytest.mark.parametrize("words", [(), ("--help",), ("vm", "--help"), ("move", "-h"), ("--version",)])
def test_help_is_no_error(words: tuple[str, ...], kvmove: Kvmove) -> None:
    assert kvmove(*words).code in (0, 2)  # click calls a bare `kvmove` a matter of usage, and shows its help


def test_a_daemon_without_its_configuration_says_so(tmp_path: Path, kvmove: Kvmove) -> None:
    result = kvmove("manager", "--config", str(tmp_path / "none.toml"))
    assert result.code == 2
    assert "cannot read" in result.err
