"""The manual pages and the commands say the same."""

import re
from pathlib import Path

import click
import pytest

from kvmove.cli.lazy import load
from kvmove.cli.main import COMMANDS, cli
from kvmove.cli.options import Command, global_options

PAGES = Path(__file__).parents[3] / "docs" / "commands"
OURS = [name for name in COMMANDS if name != "lab"]
GLOBAL = {option for parameter in global_options(on_command=False) for option in parameter.opts}


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text()


def leaves(command: click.Command) -> list[click.Command]:
    if not isinstance(command, click.Group):
        return [command]
    return [leaf for inner in command.commands.values() for leaf in leaves(inner)]


@pytest.mark.parametrize("name", OURS)
def test_every_command_and_every_option_is_in_its_page(name: str) -> None:
    text = page(name)
    for command in leaves(load(COMMANDS[name].target)):
        assert str(command.name) in text
        wanted = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert {option for option in wanted - GLOBAL if option not in text} == set()


@pytest.mark.parametrize("name", OURS)
def test_no_page_tells_of_an_option_that_there_is_not(name: str) -> None:
    known = {option for command in leaves(load(COMMANDS[name].target)) for it in command.params for option in it.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page(name))) <= known | GLOBAL | {
        "--version",
        "--help",
        "--datastore",
    }


def test_the_overview_has_every_command_and_every_option_of_all() -> None:
    text = page("README")
    assert {name for name in COMMANDS if f"| [{name}](" not in text} == set()
    assert {option for option in GLOBAL if option not in text} == set()


@pytest.mark.parametrize("name", OURS)
def test_every_command_that_asks_somebody_takes_the_global_options(name: str) -> None:
    for command in leaves(load(COMMANDS[name].target)):
        assert isinstance(command, Command) or name in ("agent", "manager")


def test_links_between_pages_lead_somewhere() -> None:
    for file in PAGES.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)", file.read_text()):
            assert (PAGES / target).exists(), f"{file.name}: {target}"


def test_help_is_there_for_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for name in OURS:
        cli.main([name, "--help"], prog_name="kvmove", standalone_mode=False)
        assert f"Usage: kvmove {name}" in capsys.readouterr().out
