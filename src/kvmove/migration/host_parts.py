"""What a move needs of the host it runs on: its VMs, datastores, registry and data port, as the agent has them.

Only interfaces and one bundle; the agent fills them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import UUID

from kvmove.disk.datastore import Datastore
from kvmove.migration.journal import Journal
from kvmove.model.vm import Power, VmDefinition
from kvmove.mover.move_terms import MoverSettings
from kvmove.qemu.instance import Instance
from kvmove.registry.interface import Registry
from kvmove.transport.listener import DataListener


class LocalVms(Protocol):
    """The VMs of this host. A VM that moves is not started, stopped or deleted by anyone else."""

    def definition(self, vm: UUID) -> VmDefinition:
        """:raise NotFound: this host has no such VM."""

    def instance(self, vm: UUID) -> Instance:
        """The VM's QEMU.

        :raise CheckFailed: it does not run here.
        """

    async def power(self, vm: UUID) -> Power:
        """How the VM is, for a move of it.

        :raise CheckFailed: it cannot be moved as it is. :raise Unreachable: its QEMU does not answer.
        """

    def require_free(self, definition: VmDefinition) -> None:
        """:raise Busy: this host has the VM, or one of its name, already."""

    def surviving(self, vm: UUID) -> Instance | None:
        """The VM's QEMU, after a restart of the agent; None when it has ended.

        :raise Unreachable: it lives and does not answer yet.
        """

    def begin_move(self, vm: UUID, move_id: str, epoch: int) -> None:
        """Keep others off the VM, which is here under `epoch`, while it moves.

        :raise Busy: it moves already, or is here under another epoch.
        """

    def end_move(self, vm: UUID, epoch: int) -> None:
        """The move is over and the VM stays here, under `epoch`."""

    async def disks_moved(self, definition: VmDefinition) -> None:
        """The VM's disks lie where `definition` says from now on, durably. Repeating it changes nothing."""

    async def start_incoming(self, definition: VmDefinition, move_id: str) -> Instance:
        """Start a QEMU that waits for the VM's memory; its disks are there. Undone by `discard_incoming`."""

    async def adopt_incoming(self, definition: VmDefinition, move_id: str) -> Instance | None:
        """After a restart of the agent: the QEMU that waited for this move, if it still runs."""

    async def discard_incoming(self, vm: UUID) -> None:
        """End that QEMU and forget the VM; its disks are not touched. No harm when there is none."""

    async def take_ownership(self, definition: VmDefinition, epoch: int, *, runs: bool) -> None:
        """The incoming VM is this host's own from now on, durably; `runs`: it has a QEMU."""

    async def give_away(self, vm: UUID, epoch: int) -> bool:
        """The VM, which this host had under `epoch`, is elsewhere: end its paused QEMU here and forget it, durably. Its
        disks are not touched. False, and nothing is done: it has come back, or is about to."""


@dataclass(frozen=True, slots=True)
class HostParts:
    """One host. `run` holds sockets; `keep_source` is how long disks that moved away are kept (seconds)."""

    name: str
    vms: LocalVms
    datastores: Mapping[str, Datastore]
    registry: Registry
    listener: DataListener
    outgoing: Journal
    incoming: Journal
    pki: Path
    run: Path
    mover: MoverSettings
    keep_source: float
