"""What the log lines of a move say of it: its id, the VM, both hosts, and the phase as far as it is known here."""

from contextlib import AbstractContextManager

from kvmove.log_context import of_move
from kvmove.model.move import MovePlan


def logged_as(plan: MovePlan) -> AbstractContextManager[None]:
    """What runs inside logs as this move's."""
    return of_move(plan.move_id, vm=plan.vm.name, src=plan.source.name, dst=plan.destination.name)
