"""Contexts are written so that `settings` reads the same, and others than the one meant are left alone."""

from pathlib import Path

import pytest

from kvmove.cli.contexts import forget_context, use_context
from kvmove.cli.options import Options
from kvmove.cli.settings import ContextEntry, Target, find_target
from kvmove.errors import InvalidInput

LAB = ContextEntry(server="unix:/run/kvmove-lab/lab/manager.sock")
HALL = ContextEntry(server="https://10.0.0.1:7440", pki=Path("/etc/kvmove/pki"))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def test_a_used_context_is_what_commands_talk_to(environment: dict[str, str]) -> None:
    assert use_context("lab", LAB, environment) is None
    assert find_target(Options(), environment).server == LAB.server


def test_leaving_a_context_goes_back_to_the_one_before(environment: dict[str, str]) -> None:
    use_context("hall", HALL, environment)
    before = use_context("lab", LAB, environment)
    forget_context("lab", before, environment)
    assert find_target(Options(), environment) == Target(HALL.server, HALL.pki)


def test_forgetting_a_context_that_is_not_current_leaves_the_current_one(environment: dict[str, str]) -> None:
    use_context("lab", LAB, environment)
    use_context("hall", HALL, environment)
    forget_context("lab", None, environment)
    assert find_target(Options(), environment).server == HALL.server


def test_after_the_last_context_no_file_is_left(environment: dict[str, str], tmp_path: Path) -> None:
    forget_context("lab", use_context("lab", LAB, environment), environment)
    assert list(tmp_path.rglob("config*")) == []


def test_a_damaged_file_stays_as_it_is(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "kvmove" / "config.toml"
    file.parent.mkdir()
    file.write_text("current = [")
    with pytest.raises(InvalidInput):
        use_context("lab", LAB, environment)
    assert file.read_text() == "current = ["
