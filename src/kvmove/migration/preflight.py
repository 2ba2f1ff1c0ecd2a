"""The checks before a move: each says what blocks it or what to know, with the remedy. Pure.

Checks come in two rows. The first asks whether there is anything to plan at all (the VM runs, the hosts answer, nobody
else moves it); only when that is so does the second compare the two hosts, or, where the VM stays on its host, look at
the datastores alone. So a person reads no list of consequences.

A new check is a function here and a line in one of the two rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import kvmove
from kvmove.migration.findings import blocker, warning
from kvmove.migration.preflight_disks import DISK_CHECKS, STORAGE_CHECKS, Pair, needs_nics, stays_in_place
from kvmove.migration.preflight_probes import PROBE_CHECKS
from kvmove.migration.preflight_qemu import QEMU_CHECKS, series
from kvmove.migration.preflight_swap import swap_file_fits, swap_file_stays
from kvmove.migration.probed import NOTHING_KNOWN, Known
from kvmove.migration.routes import describe_nics, routes
from kvmove.model.finding import Finding
from kvmove.model.host import HostStatus
from kvmove.model.move import MoveKind, MoveRequest
from kvmove.model.ownership import Ownership, OwnershipState
from kvmove.model.vm import VmState, VmStatus
from kvmove.qemu.accelerator import Accelerator, memory_is_safe
from kvmove.qemu.command_line import guest_memory
from kvmove.units import format_size


class Situation(NamedTuple):
    """All that is known when a move is planned."""

    request: MoveRequest
    vm: VmStatus
    source: HostStatus
    destination: HostStatus
    ownership: Ownership | None
    known: Known = NOTHING_KNOWN


def first_row(situation: Situation) -> list[Finding]:
    """What keeps the hosts from being compared at all; then there is nothing to probe either."""
    return [finding for look in _FIRST for finding in look(situation)]


def findings_of(situation: Situation) -> Iterator[Finding]:
    """What the checks find, blockers and warnings."""
    first = first_row(situation)
    yield from first
    source, destination = situation.source.info, situation.destination.info
    if first or source is None or destination is None:
        return
    known = situation.known
    pair = Pair(situation.request, situation.vm, source, destination, known.images, known.probed)
    for compare in (
        (_kind_is_as_asked, *STORAGE_CHECKS, swap_file_stays) if source.name == destination.name else _SECOND
    ):
        yield from compare(pair)
    yield from known.told


def _hosts_answer(now: Situation) -> Iterator[Finding]:
    for host in dict.fromkeys((now.source, now.destination)):
        if not host.reachable or host.info is None:
            reason = f": {host.reason}" if host.reason else ""
            yield blocker(
                "host-silent",
                f"{host.name} does not answer{reason}",
                f"see on {host.name} whether kvmove-agent runs, and whether {host.control} can be reached from here",
            )


def _takes_vms(now: Situation) -> Iterator[Finding]:
    """`host-in-maintenance`. A move within a host brings nothing to it."""
    mark = now.destination.maintenance
    if mark is not None and now.destination.name != now.source.name:
        yield blocker(
            "host-in-maintenance",
            f"{now.destination.name} is in maintenance since {mark.since} and takes no VM",
            f"choose another host, or end it: kvmove host maintenance exit {now.destination.name}",
        )


def _is_where_asked(now: Situation) -> Iterator[Finding]:
    wanted = now.request.from_host
    if wanted is not None and wanted != now.vm.host:
        yield blocker(
            "source-differs",
            f"the move was asked for from {wanted}, and {now.vm.definition.name} is on {now.vm.host} now",
            "look again whether it is still wanted, and ask for it anew",
        )


_STATE_REMEDY = {
    VmState.INCOMING: "it is arriving by another move; wait until that has ended: kvmove task list",
    VmState.CRASHED: "its QEMU has ended; start it again: kvmove vm start {name}",
}


def _vm_can_move(now: Situation) -> Iterator[Finding]:
    name, state = now.vm.definition.name, now.vm.state
    if state in _STATE_REMEDY:  # `unknown` is the state of VMs on a host that does not answer, which is said already
        yield blocker("vm-state", f"{name} is {state} on {now.vm.host}", _STATE_REMEDY[state].format(name=name))


def _vm_is_free(now: Situation) -> Iterator[Finding]:
    name, record = now.vm.definition.name, now.ownership
    if record is None:
        yield blocker(
            "vm-not-registered",
            f"the registry has no record of {name}",
            f"restart kvmove-agent on {now.vm.host}, which registers its VMs",
        )
    elif record.state is OwnershipState.MOVING:
        yield blocker(
            "vm-moving",
            f"{name} is moving from {record.owner} to {record.destination} already (move {record.move_id})",
            "wait until that move has ended, or cancel it: kvmove task list",
        )
    elif now.vm.move_id is not None:
        yield blocker(
            "vm-moving",
            f"{now.vm.host} is still busy with move {now.vm.move_id} of {name}",
            "wait until that move has ended: kvmove task list",
        )
    elif (record.owner, record.epoch) != (now.vm.host, now.vm.epoch):
        yield blocker(
            "vm-owned-elsewhere",
            f"{name} belongs to {record.owner} (epoch {record.epoch}), but is seen on {now.vm.host} "
            f"(epoch {now.vm.epoch})",
            "ask again in a moment; if it stays so, do not start the VM anywhere and compare both agents' logs",
        )


def _kind_is_as_asked(pair: Pair) -> Iterator[Finding]:
    wanted = pair.request.only_kind
    if wanted is None:
        return
    moving = [
        disk.name
        for disk in pair.vm.definition.disks
        if not stays_in_place(pair.request, disk, pair.source, pair.destination)
    ]
    kind = MoveKind.UNIFIED if moving else MoveKind.HOST
    if pair.source.name == pair.destination.name:
        kind = MoveKind.STORAGE
    if kind is not wanted:
        disks = f" (disks that would move: {', '.join(moving)})" if moving else ""
        yield blocker(
            "kind-differs",
            f"a {wanted} move of {pair.vm.definition.name} was asked for, and it would be a {kind} move now{disks}",
            "look again whether it is still wanted, and ask for it anew",
        )


def _versions_fit(pair: Pair) -> Iterator[Finding]:
    ours, theirs = pair.source.version, pair.destination.version
    if ours != theirs and (not series(ours) or series(ours) != series(theirs)):
        yield blocker(
            "kvmove-version",
            f"{pair.source.name} runs kvmove {ours} and {pair.destination.name} runs {theirs}",
            "bring both hosts to the same version; agents can be restarted while VMs run",
        )
    elif len({ours, theirs, kvmove.__version__}) > 1:
        yield warning(
            "kvmove-version-differs",
            f"the kvmove versions differ: manager {kvmove.__version__}, {pair.source.name} {ours}, "
            f"{pair.destination.name} {theirs}",
            "bring all to the same version when you can",
        )


def _is_off(pair: Pair) -> bool:
    return pair.vm.state is VmState.OFF


def _accelerator_fits(pair: Pair) -> Iterator[Finding]:
    running, theirs = "" if _is_off(pair) else pair.vm.accelerator, pair.destination.accelerator
    asked = pair.vm.definition.accelerator
    there = theirs if asked == "auto" else asked
    name = pair.vm.definition.name
    if running and there != running:
        yield blocker(
            "accelerator-differs",
            f"{name} runs with {running}, and would run with {there} on {pair.destination.name}",
            f"choose a host where it runs with {running}; a running VM cannot change its accelerator",
        )
    elif there == "kvm" and theirs != "kvm":
        yield blocker(
            "kvm-missing",
            f"{name} needs kvm, and {pair.destination.name} has only {theirs}",
            "choose a host with hardware virtualization",
        )


def _memory_is_safe(pair: Pair) -> Iterator[Finding]:
    """QEMU before 8.2.3 and 9.0 loses writes of emulated guests of some sizes; see `qemu.accelerator`."""
    if not pair.vm.accelerator or _is_off(pair):
        return
    accelerator: Accelerator = "kvm" if pair.vm.accelerator == "kvm" else "tcg"
    memory = guest_memory(pair.vm.definition, accelerator)
    if not memory_is_safe(memory, accelerator, pair.source.qemu_version):
        yield blocker(
            "qemu-loses-memory",
            f"{pair.vm.definition.name} is emulated with {memory} bytes of memory, a multiple of 256 KiB, and QEMU "
            f"{pair.source.qemu_version} would lose some of its memory's contents",
            "shut it down, and define it with 64 KiB less memory; or run a QEMU from 8.2.3 on",
        )


def _memory_is_there(pair: Pair) -> Iterator[Finding]:
    needed, free = pair.vm.definition.memory, pair.destination.memory_free
    if needed > free and not _is_off(pair):
        yield blocker(
            "memory-short",
            f"{pair.destination.name} has {format_size(free)} of memory free, and {pair.vm.definition.name} needs "
            f"{format_size(needed)}",
            f"free memory on {pair.destination.name}, or choose another host",
        )


def _bridges_exist(pair: Pair) -> Iterator[Finding]:
    for bridge in dict.fromkeys(nic.bridge for nic in pair.vm.definition.nics):
        if bridge not in pair.destination.bridges:
            yield blocker(
                "bridge-missing",
                f"{pair.destination.name} has no bridge {bridge}, which {pair.vm.definition.name} is connected to",
                f"make bridge {bridge} on {pair.destination.name}, in the same network",
            )


def _nics_meet(pair: Pair) -> Iterator[Finding]:
    known = [nic.name for nic in pair.source.nics]
    unknown = [name for name in pair.request.nics if name not in known]
    if unknown:
        yield blocker(
            "nic-unknown",
            f"{pair.source.name} has no migration NIC {', '.join(unknown)}",
            f"its migration NICs are: {', '.join(known)}" if known else "list them in its agent.toml: [[nic]]",
        )
    elif needs_nics(pair) and not routes(pair.source, pair.destination, pair.request.nics, pair.probed.reached()):
        yield blocker(
            "nics-apart",
            f"no migration NIC of {pair.source.name} reaches one of {pair.destination.name}: "
            f"{describe_nics(pair.source)}; {describe_nics(pair.destination)}",
            "give both hosts a NIC in a common network, and list it in their agent.toml: [[nic]]",
        )


def _encrypted(pair: Pair) -> Iterator[Finding]:
    if not pair.request.encrypt:
        yield warning(
            "not-encrypted",
            "memory and disks cross the network unencrypted",
            "do so only on a network where nobody listens and nobody else can send",
        )


_FIRST: tuple[Callable[[Situation], Iterator[Finding]], ...] = (
    _is_where_asked,
    _hosts_answer,
    _takes_vms,
    _vm_can_move,
    _vm_is_free,
)

_SECOND: tuple[Callable[[Pair], Iterator[Finding]], ...] = (
    _kind_is_as_asked,
    _versions_fit,
    *QEMU_CHECKS,
    _accelerator_fits,
    _memory_is_safe,
    _memory_is_there,
    *DISK_CHECKS,
    swap_file_fits,
    _bridges_exist,
    _nics_meet,
    *PROBE_CHECKS,
    _encrypted,
)
