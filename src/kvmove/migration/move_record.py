"""The registry's record of a VM before, during and after a move, as the plan has it. Pure.

Both hosts and their restarted agents compare what is stored with these; nobody keeps a record of its own.
"""

from __future__ import annotations

from kvmove.model.move import MovePlan
from kvmove.model.ownership import Ownership
from kvmove.registry import ownership


def record_before(plan: MovePlan) -> Ownership:
    """The source owns the VM, and no move is under way."""
    return Ownership(vm=plan.vm.uuid, owner=plan.source.name, epoch=plan.epoch)


def record_under_way(plan: MovePlan) -> Ownership:
    """This move is under way; the source owns the VM."""
    return ownership.begin(record_before(plan), plan.move_id, plan.destination.name)


def record_committed(plan: MovePlan) -> Ownership:
    """The destination has won the VM by this move."""
    return ownership.commit(record_under_way(plan), plan.move_id, plan.destination.name)
