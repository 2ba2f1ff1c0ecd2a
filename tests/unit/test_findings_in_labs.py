"""Every code of a finding is fired by a test on a real lab, or stands here with the reason why none does."""

import ast
from pathlib import Path

from tests.unit.test_finding_codes import used

ROOT = Path(__file__).parents[2]

NEEDS_HARDWARE = {
    "accelerator-differs": "one host with KVM and one without",
    "kvm-missing": "as above: the hosts of a lab share one processor",
    "cpu-feature-missing": "two processors, or KVM: emulation gives every feature of the model",
}
"""No lab on one machine can have it; what QEMU says of it is asked in test_host_qemu.py."""

NOT_YET = {
    "base-elsewhere", "bridge-missing", "clocks-differ", "cpu-model-missing", "datastore-full", "datastore-may-fill",
    "datastore-nearly-full", "device-missing", "disk-cached-on-shared",
    "host-in-maintenance", "host-silent", "image-broken", "image-on-device", "image-snapshots", "image-stays",
    "image-thick-on-base", "kvmove-version", "kvmove-version-differs", "machine-type-missing",
    "memory-short", "qemu-differs", "qemu-loses-memory",
    "qemu-older", "swap-datastore-missing", "swap-no-room",
    "swap-on-devices", "swap-stays", "vm-moving", "vm-not-registered", "vm-owned-elsewhere", "vm-state",
    "would-be-queued",
}  # fmt: skip
"""Fired by unit tests alone: by no lab test by its code. A code leaves this set with its lab test."""


def fired() -> set[str]:
    """The strings of the lab's checks that are codes."""
    tree = ast.parse((ROOT / "tests/integration/test_checks.py").read_text())
    words = {it.value for it in ast.walk(tree) if isinstance(it, ast.Constant) and isinstance(it.value, str)}
    return words & used()


def test_every_code_is_fired_in_a_lab_or_has_its_reason() -> None:
    assert fired() | NEEDS_HARDWARE.keys() | NOT_YET == used()


def test_what_is_fired_has_no_excuse() -> None:
    assert not fired() & (NEEDS_HARDWARE.keys() | NOT_YET)
    assert not NEEDS_HARDWARE.keys() & NOT_YET
