"""Accelerator and the RAM rule of emulated guests."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.qemu import accelerator
from kvmove.qemu.accelerator import (
    aligned_memory,
    cpu_can_virtualize,
    emulated_memory,
    find_accelerator,
    memory_is_safe,
    probe_rom,
)
from kvmove.units import GIB, KIB, MIB

SIZES = st.one_of(st.integers(1, 64 * GIB // (64 * KIB)).map(lambda n: n * 64 * KIB), st.integers(MIB, 64 * GIB))


@given(SIZES)
def test_an_emulated_guest_never_has_a_multiple_of_256_kib(size: int) -> None:
    assert aligned_memory(emulated_memory(size)) % (256 * KIB) != 0


@given(SIZES)
def test_at_most_64_kib_is_taken_off_and_the_rest_is_what_qemu_rounds_to(size: int) -> None:
    given_size = emulated_memory(size)
    assert given_size == aligned_memory(given_size)
    assert aligned_memory(size) - given_size in (0, 64 * KIB)


@given(SIZES)
def test_what_the_rule_gives_is_safe_for_any_qemu(size: int) -> None:
    assert memory_is_safe(emulated_memory(size), "tcg", "7.2.22")


def test_a_size_that_qemu_rounds_up_to_a_multiple_is_not_safe() -> None:
    assert not memory_is_safe(256 * MIB - 4 * KIB, "tcg", "7.2.22")


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ("7.2.22", False),
        ("8.2.2", False),
        ("8.2.3", True),
        ("8.9", False),
        ("9.0.0", True),
        ("10.0", True),
        ("?", False),
    ],
)
def test_only_a_qemu_with_the_fix_moves_an_emulated_guest_of_256_mib(version: str, safe: bool) -> None:
    assert memory_is_safe(256 * MIB, "tcg", version) is safe


def test_a_kvm_guest_may_have_any_size() -> None:
    assert memory_is_safe(256 * MIB, "kvm", "7.2.22")


@pytest.mark.parametrize(
    ("flags", "can"),
    [("fpu vmx sse", True), ("fpu svm", True), ("fpu sse vmx_like", False), ("", False)],
)
def test_only_vmx_or_svm_among_the_flags_counts(flags: str, can: bool) -> None:
    assert cpu_can_virtualize(f"processor\t: 0\nmodel name\t: vmx svm\nflags\t\t: {flags}\nbugs\t: none\n") is can


def test_the_probe_starts_at_the_reset_vector() -> None:
    rom = probe_rom()
    assert len(rom) == 64 * KIB
    assert rom[-16:-11] == bytes([0xB0, 0x15, 0xE6, 0xF4, 0xF4])


class Host:
    """A host whose CPU can virtualize; `works` is what a probe shows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, works: bool, flags: bool = True) -> None:
        self.probes = 0
        self.works = works
        monkeypatch.setattr(accelerator, "cpu_can_virtualize", lambda text: flags)
        monkeypatch.setattr(accelerator, "guest_makes_progress", self.probe)

    def probe(self, kind: str, rom: bytes, **options: object) -> bool:
        assert kind == "kvm"
        self.probes += 1
        return self.works


@pytest.mark.parametrize(("works", "found"), [(True, "kvm"), (False, "tcg")])
def test_the_probe_decides_and_is_asked_once_per_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool, found: str
) -> None:
    host = Host(monkeypatch, works=works)
    assert find_accelerator(tmp_path / "cache") == found
    assert find_accelerator(tmp_path / "cache") == found
    assert host.probes == 1


@pytest.mark.parametrize("content", ["another-boot kvm\n", "nonsense", ""])
def test_a_cache_of_another_boot_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    Host(monkeypatch, works=False)
    (tmp_path / "cache").write_text(content)
    assert find_accelerator(tmp_path / "cache") == "tcg"


def test_without_the_cpu_flags_nothing_is_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, works=True, flags=False)
    assert find_accelerator(tmp_path / "cache") == "tcg"
    assert host.probes == 0
