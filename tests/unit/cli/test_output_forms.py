"""Every form of output, columns that are chosen, and hints at what was meant."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kvmove.cli.options import FORMS
from tests.support import samples
from tests.support.fake_manager import FakeManager
from tests.unit.cli.conftest import Kvmove


@pytest.fixture(autouse=True)
def answers(manager: FakeManager) -> None:
    manager.answers["GET /vms"] = [samples.vm()]
    manager.answers["GET /vms/web1"] = samples.vm()
    manager.answers["GET /tasks"] = [samples.task()]


@pytest.mark.parametrize("form", FORMS)
def test_a_list_comes_in_every_form(kvmove: Kvmove, form: str) -> None:
    done = kvmove("vm", "list", "-o", form)
    assert (done.code, done.err) == (0, "")
    assert "web1" in done.out


def test_yaml_and_json_say_the_same(kvmove: Kvmove) -> None:
    for words in (("vm", "list"), ("vm", "show", "web1")):
        assert yaml.safe_load(kvmove(*words, "-o", "yaml").out) == json.loads(kvmove(*words, "--json").out)


def test_wide_has_more_columns_than_a_table(kvmove: Kvmove) -> None:
    narrow, wide = (kvmove("-o", form, "vm", "list").out.splitlines()[0].split() for form in ("table", "wide"))
    assert narrow == wide[: len(narrow)]
    assert {"EPOCH", "DATASTORES"} <= set(wide) - set(narrow)


def test_columns_are_chosen_and_ordered(kvmove: Kvmove) -> None:
    done = kvmove("vm", "list", "--columns", "HOST,name,epoch")
    assert [line.split() for line in done.out.splitlines()] == [["HOST", "NAME", "EPOCH"], ["h1", "web1", "1"]]


def test_a_column_that_there_is_not_is_named_with_the_one_that_was_meant(kvmove: Kvmove) -> None:
    done = kvmove("vm", "list", "--columns", "hosst")
    assert (done.code, done.out) == (2, "")
    assert "did you mean 'host'?" in done.err


def test_the_environment_sets_the_form_and_an_option_wins_wherever_it_stands(
    kvmove: Kvmove, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVMOVE_OUTPUT", "yaml")
    assert isinstance(yaml.safe_load(kvmove("vm", "list").out), list)
    assert kvmove("-o", "name", "vm", "list").out == "web1\n"
    assert kvmove("vm", "list", "-o", "name").out == "web1\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("vm", "list", "-o", "jsn"), "Did you mean 'json'?"),
        (("vm", "lst"), "Did you mean 'list'?"),
        (("evnts",), "Did you mean events"),
        (("vm", "list", "--colums", "x"), "Did you mean '--columns'?"),
        (("move", "web1", "h2", "--format", "qcow"), "Did you mean 'qcow2'?"),
        (("completion", "fisch"), "Did you mean 'fish'?"),
    ],
)
def test_what_was_meant_is_guessed(kvmove: Kvmove, words: tuple[str, ...], said: str) -> None:
    done = kvmove(*words)
    assert done.code == 2
    assert said in done.err


def test_what_is_slow_to_load_is_not_loaded_for_help() -> None:
    slow = ("rich", "pydantic", "aiohttp", "yaml", "cryptography", "prometheus_client")
    code = f"import sys, kvmove.cli.main; print([name for name in {slow} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_manual_pages_are_made_of_every_command(tmp_path: Path) -> None:
    script = Path(__file__).parents[3] / "scripts" / "make-man"
    subprocess.run([sys.executable, "-W", "error::UserWarning", script, tmp_path], check=True)
    assert {"kvmove.1", "kvmove-events.1", "kvmove-vm-list.1"} <= {page.name for page in tmp_path.iterdir()}
