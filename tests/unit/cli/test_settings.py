"""Which manager a command asks: flag, environment, the user's file, the local socket."""

import json
from pathlib import Path

import pytest

from kvmove.cli.options import Options
from kvmove.cli.settings import DEFAULT_SERVER, Target, find_target
from kvmove.errors import InvalidInput
from tests.support import samples
from tests.support.fake_manager import FakeManager
from tests.unit.cli.conftest import Kvmove

FILE = """
current = "cupboard"

[contexts.cupboard]
server = "unix:/run/cupboard.sock"

[contexts.hall]
server = "https://10.0.0.1:7440"
pki = "/etc/hall"

[contexts.plain]
server = "https://10.0.0.2:7440"
"""

HALL = Target("https://10.0.0.1:7440", Path("/etc/hall"))


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "kvmove").mkdir()
    (tmp_path / "kvmove" / "config.toml").write_text(FILE)
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def test_without_anything_it_is_the_local_manager(tmp_path: Path) -> None:
    assert find_target(Options(), {"XDG_CONFIG_HOME": str(tmp_path)}) == Target(DEFAULT_SERVER, None)


def test_the_file_names_the_current_context(home: dict[str, str]) -> None:
    assert find_target(Options(), home) == Target("unix:/run/cupboard.sock", None)


def test_a_context_is_chosen_by_flag_or_environment(home: dict[str, str]) -> None:
    assert find_target(Options(context="hall"), home) == HALL
    assert find_target(Options(), home | {"KVMOVE_CONTEXT": "hall"}) == HALL


def test_any_flag_wins_over_any_environment(home: dict[str, str]) -> None:
    environment = home | {"KVMOVE_SERVER": "unix:/env.sock"}
    assert find_target(Options(), environment).server == "unix:/env.sock"
    assert find_target(Options(context="hall"), environment) == HALL
    assert find_target(Options(server="unix:/flag.sock", context="hall"), environment).server == "unix:/flag.sock"


def test_a_certificate_comes_from_flag_environment_context_or_its_usual_place(home: dict[str, str]) -> None:
    plain = Options(context="plain")
    assert find_target(plain, home).pki == Path(home["XDG_CONFIG_HOME"]) / "kvmove" / "pki"
    assert find_target(plain, home | {"KVMOVE_PKI": "/env"}).pki == Path("/env")
    assert find_target(Options(context="hall", pki=Path("/flag")), home | {"KVMOVE_PKI": "/env"}).pki == Path("/flag")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(server="http://10.0.0.1"), "is no manager"),
        (Options(server="10.0.0.1:7440"), "is no manager"),
        (Options(context="none"), "there is no context 'none'"),
    ],
)
def test_what_names_no_manager_is_refused(options: Options, said: str, home: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match=said):
        find_target(options, home)


def test_an_option_counts_before_and_after_the_command(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["GET /vms"] = [samples.vm()]
    assert kvmove("-o", "name", "vm", "list").out == "web1\n"
    assert kvmove("vm", "list", "-o", "name").out == "web1\n"
    assert json.loads(kvmove("-o", "name", "vm", "list", "-o", "json").out)
    assert kvmove("vm", "list", "--server", "unix:/nowhere").code == 9


def test_a_damaged_file_is_told(tmp_path: Path, kvmove: Kvmove, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KVMOVE_SERVER")
    (tmp_path / "config" / "kvmove").mkdir(parents=True)
    (tmp_path / "config" / "kvmove" / "config.toml").write_text("curent = 'x'")
    result = kvmove("vm", "list")
    assert result.code == 2
    assert "curent: unknown key, did you mean current?" in result.err
