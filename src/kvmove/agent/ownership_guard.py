"""The guard before a guest is let run or a VM deleted: the registry's record against this host's own. Pure."""

from __future__ import annotations

from kvmove.errors import Busy, CheckFailed
from kvmove.model.ownership import Ownership, OwnershipState


def require_owner(vm_name: str, host: str, owned: Ownership) -> None:
    """See that `host` owns the VM and no move of it is under way.

    :raise Busy: another host owns it, or it moves.
    """
    if owned.owner != host:
        raise Busy(f"VM {vm_name} is owned by {owned.owner}, not by {host}", hint=f"Ask for it on {owned.owner}.")
    if owned.state is OwnershipState.MOVING:
        raise Busy(f"VM {vm_name} moves to {owned.destination} (move {owned.move_id})", hint="Wait until it has ended.")


def require_right_to_run(vm_name: str, host: str, epoch: int, owned: Ownership | None) -> None:
    """See that `host` may let the VM run, which it remembers to have under `epoch`.

    :raise Busy: as `require_owner`.
    :raise CheckFailed: the VM is not registered, or under another epoch: the disks here may be out of date.
    """
    if owned is None:
        raise CheckFailed(f"VM {vm_name} is not in the registry", hint="Was the registry restored from a backup?")
    require_owner(vm_name, host, owned)
    if owned.epoch != epoch:
        raise CheckFailed(
            f"{host} has VM {vm_name} under epoch {epoch}, the registry under {owned.epoch}: these disks may be stale",
            hint="Restart the agent, so that it ends the moves that it began; else look for newer disks elsewhere.",
        )
