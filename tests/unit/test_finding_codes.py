"""Every code that a finding can have is in the table of docs/troubleshooting.md, and no other is."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def used() -> set[str]:
    """The first argument of every call of `blocker` and `warning` in the sources."""
    return {
        node.args[0].value
        for path in (ROOT / "src/kvmove").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("blocker", "warning")
        if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    }


def documented() -> set[str]:
    text = (ROOT / "docs/troubleshooting.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)`[^|]*\|([^|]+)\|([^|]+)\|$", text[text.index("## Findings") :], re.MULTILINE)
    assert all(meaning.strip() and remedy.strip() for _, meaning, remedy in rows)
    return {code for code, _, _ in rows}


def test_every_code_is_in_the_table_and_no_other() -> None:
    assert used() == documented()
    assert len(used()) > 40


def test_codes_are_lower_case_words_with_dashes() -> None:
    assert {code for code in used() if not re.fullmatch(r"[a-z]+(-[a-z]+)*", code)} == set()
