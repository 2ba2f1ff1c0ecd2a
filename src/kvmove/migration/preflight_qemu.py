"""Whether the destination's QEMU can take over what the source's runs: version, machine type, CPU features. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvmove.migration.findings import blocker, warning
from kvmove.migration.preflight_disks import Pair
from kvmove.model.finding import Finding
from kvmove.model.probe import CpuFacts, QemuFacts
from kvmove.model.vm import VmState
from kvmove.qemu.command_line import CPU_MODEL, MACHINE


def qemu_is_not_older(pair: Pair) -> Iterator[Finding]:
    """A newer QEMU knows what an older one sends; the other way round only chance decides. Within a series (7.2.x)
    what is sent does not change."""
    name, other = pair.source.name, pair.destination.name
    ours, theirs = pair.source.qemu_version, pair.destination.qemu_version
    if () < series(theirs) < series(ours) and pair.vm.state is not VmState.OFF:
        yield blocker(
            "qemu-older",
            f"{other} has an older QEMU ({theirs}) than {name} ({ours}), and may not understand the VM's state",
            f"bring QEMU on {other} to {ours} or newer, choose another host, or shut the VM down and move it off",
        )
    elif ours != theirs:
        yield warning(
            "qemu-differs",
            f"the QEMU versions differ: {name} {ours}, {other} {theirs}",
            "the machine type is the same on both; bring both to the same version when you can",
        )


def machine_is_known(pair: Pair) -> Iterator[Finding]:
    facts = pair.probed.destination_qemu
    if facts is not None and MACHINE not in facts.machines:
        yield blocker(
            "machine-type-missing",
            f"the QEMU of {pair.destination.name} ({pair.destination.qemu_version}) has no machine type {MACHINE}, "
            f"which {pair.vm.definition.name} is",
            f"install a QEMU on {pair.destination.name} that has it: {pair.source.qemu_version}, as on "
            f"{pair.source.name}, or choose another host",
        )


def cpu_features_are_there(pair: Pair) -> Iterator[Finding]:
    """What the guest has found at the source must be there at the destination; a VM that is off has found nothing."""
    name, host = pair.vm.definition.name, pair.destination.name
    there = _cpu(pair.probed.destination_qemu, _accelerator(pair))
    if there is None:
        return
    if not there.known:
        yield blocker(
            "cpu-model-missing",
            f"the QEMU of {host} ({pair.destination.qemu_version}) has no CPU model {CPU_MODEL}, which {name} has",
            f"install another QEMU on {host}, or choose another host",
        )
        return
    here = _cpu(pair.probed.source_qemu, pair.vm.accelerator)
    if pair.vm.state is VmState.OFF:
        if there.missing:
            yield warning(
                "cpu-feature-missing",
                f"{host} cannot give {name} the CPU features {', '.join(there.missing)}",
                f"{name} will start there without them; choose another host if its programs need them",
            )
    elif here is not None and (lost := sorted(_visible(here) & set(there.missing))):
        yield blocker(
            "cpu-feature-missing",
            f"{name} sees the CPU features {', '.join(lost)} on {pair.source.name}, and {host} cannot give them",
            f"choose a host whose CPU has them, or turn them on in the firmware of {host}",
        )


QEMU_CHECKS: tuple[Callable[[Pair], Iterator[Finding]], ...] = (
    qemu_is_not_older,
    machine_is_known,
    cpu_features_are_there,
)


def series(version: str) -> tuple[int, ...]:
    """Major and minor of a version; nothing when it cannot be read."""
    parts = version.split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else ()


def _accelerator(pair: Pair) -> str:
    """What the VM would run with there; that it differs from now is another check's word."""
    asked = pair.vm.definition.accelerator
    return pair.destination.accelerator if asked == "auto" else asked


def _cpu(facts: QemuFacts | None, accelerator: str) -> CpuFacts | None:
    return next((it for it in facts.cpus if it.accelerator == accelerator), None) if facts is not None else None


def _visible(cpu: CpuFacts) -> set[str]:
    """The features that a guest with this CPU sees."""
    return set(cpu.features) - set(cpu.missing)
