"""The house's own rules hold, and each rule would notice a breach."""

from collections.abc import Callable
from pathlib import Path, PurePath

import pytest

from tests.support import house_rules

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path.relative_to(ROOT) for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.py"))
Rule = Callable[[PurePath, str], list[str]]

BREACHES: list[tuple[Rule, str, str]] = [
    (house_rules.file_length, "src/kvmove/disk/long.py", "a = 1\n" * 501),
    (house_rules.function_length, "src/kvmove/disk/a.py", "def f():\n" + "    a = 1\n" * 60),
    (house_rules.parameter_count, "src/kvmove/disk/a.py", "def f(a, b, c, d, e, *, g, h): ..."),
    (house_rules.vague_name, "src/kvmove/disk/utils.py", ""),
    (house_rules.vague_name, "src/kvmove/common/disk.py", ""),
    (house_rules.qmp_in_its_place, "src/kvmove/mover/a.py", "run('blockdev-mirror')"),
    (house_rules.sql_in_its_place, "src/kvmove/agent/a.py", "run('SELECT a\\n FROM b')"),
    (house_rules.sql_in_its_place, "src/kvmove/agent/a.py", "import sqlite3"),
    (house_rules.sockets_in_their_place, "src/kvmove/mover/a.py", "import socket\nsocket.socketpair()"),
    (house_rules.markers, "src/kvmove/mover/a.py", "a = 1  # TO" + "DO: later"),
    (house_rules.markers, "tests/unit/a.py", "@pytest.mark." + "xfail"),
    (house_rules.imports_at_the_top, "src/kvmove/mover/a.py", "def f():\n    import os"),
]


@pytest.mark.parametrize("rule", house_rules.RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    assert [breach for path in SOURCES for breach in rule(path, (ROOT / path).read_text())] == []


@pytest.mark.parametrize(("rule", "path", "source"), BREACHES)
def test_a_breach_is_noticed(rule: Rule, path: str, source: str) -> None:
    assert rule(PurePath(path), source)


def test_every_rule_is_shown_to_notice_a_breach() -> None:
    assert {rule for rule, _, _ in BREACHES} == set(house_rules.RULES)


def test_options_of_the_command_line_may_be_many() -> None:
    assert not house_rules.parameter_count(PurePath("src/kvmove/cli/a.py"), "def f(a, b, c, d, e, f, g, h): ...")


def test_qmp_may_be_spoken_where_it_belongs() -> None:
    assert not house_rules.qmp_in_its_place(PurePath("src/kvmove/qemu/a.py"), "run('blockdev-mirror')")
