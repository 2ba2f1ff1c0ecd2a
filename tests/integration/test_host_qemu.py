"""What the QEMU of this machine says it offers. A CPU that lacks something is shown by a model that it cannot give."""

from pathlib import Path

import pytest

from kvmove.errors import CheckFailed, MoveFailed
from kvmove.model.finding import Severity
from kvmove.model.probe import QemuFacts
from kvmove.qemu.command_line import CPU_MODEL, MACHINE
from kvmove.qemu.host_qemu import host_qemu, probe
from tests.support.plan_facts import ProbedFacts

pytestmark = pytest.mark.lab


async def test_it_has_our_machine_and_gives_every_feature_of_our_cpu(tmp_path: Path) -> None:
    facts = await host_qemu(("tcg",), tmp_path / "facts.json")
    assert MACHINE in facts.machines and "none" not in facts.machines
    (cpu,) = facts.cpus
    assert (cpu.accelerator, cpu.model, cpu.known, cpu.missing) == ("tcg", CPU_MODEL, True, ())
    assert {"sse4.2", "popcnt", "ssse3"} <= set(cpu.features)
    assert not {"avx", "avx2"} & set(cpu.features)


async def test_a_model_that_this_host_cannot_give_whole_blocks_a_guest_that_sees_it() -> None:
    """The emulator has no `invpcid`: a guest of a host that gives it must not come here."""
    machines, haswell = await probe("tcg", "Haswell")
    assert "invpcid" in haswell.missing and "invpcid" in haswell.features
    here = haswell.model_copy(update={"missing": ()})
    source, destination = (QemuFacts(machines=machines, cpus=(cpu,)) for cpu in (here, haswell))
    (found,) = ProbedFacts().found(source_qemu=source, destination_qemu=destination).check()
    assert (found.code, found.severity) == ("cpu-feature-missing", Severity.BLOCKER)
    assert "invpcid" in found.what
    assert ProbedFacts().found(source_qemu=destination, destination_qemu=destination).check() == []


async def test_a_model_that_there_is_not_is_told() -> None:
    machines, cpu = await probe("tcg", "Nehalem2099")
    assert not cpu.known
    facts = QemuFacts(machines=machines, cpus=(cpu,))
    (found,) = ProbedFacts().found(source_qemu=facts, destination_qemu=facts).check()
    assert found.code == "cpu-model-missing"


async def test_the_answer_is_kept_for_this_binary_alone(tmp_path: Path) -> None:
    """A binary that fails shows who is asked: as long as it is the same one, the file answers."""
    cache, binary = tmp_path / "facts.json", tmp_path / "qemu"
    binary.write_text('#!/bin/sh\nexec qemu-system-x86_64 "$@"\n')
    binary.chmod(0o755)
    facts = await host_qemu(("tcg",), cache, binary=str(binary))
    kept = cache.read_bytes()
    assert await host_qemu(("tcg",), cache, binary=str(binary)) == facts
    cache.write_text("torn {")
    assert await host_qemu(("tcg",), cache, binary=str(binary)) == facts
    assert cache.read_bytes() == kept
    binary.write_text("#!/bin/sh\necho no such luck >&2; exit 3\n")
    with pytest.raises(MoveFailed, match="no such luck"):
        await host_qemu(("tcg",), cache, binary=str(binary))
    with pytest.raises(CheckFailed, match="not installed"):
        await host_qemu(("tcg",), cache, binary=str(tmp_path / "nothing"))
