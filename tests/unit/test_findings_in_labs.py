"""Every code of a finding is fired by a test on a real lab, or stands here with the reason why none does."""

import ast
from pathlib import Path

from tests.unit.test_finding_codes import used

ROOT = Path(__file__).parents[2]

CANNOT_BE = {
    "accelerator-differs": "one host with KVM and one without",
    "kvm-missing": "as above: the hosts of a lab share one processor",
    "cpu-feature-missing": "two processors, or KVM: emulation gives every feature of the model",
    "qemu-loses-memory": "our own command line gives no guest such a size; the check is there should that change",
}
"""Why no lab on one machine can have it. What QEMU says of CPU features is asked in test_host_qemu.py."""


def fired() -> set[str]:
    """The codes that stand as strings in the lab tests of checks."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "tests/integration").glob("test_checks*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {it.value for it in nodes if isinstance(it, ast.Constant) and isinstance(it.value, str)} & used()


def test_every_code_is_fired_in_a_lab_or_has_its_reason() -> None:
    assert fired() | CANNOT_BE.keys() == used()


def test_what_is_fired_has_no_excuse() -> None:
    assert not fired() & CANNOT_BE.keys()
