"""Who may run a VM: the record in the registry that decides every hand-over."""

from enum import StrEnum
from uuid import UUID

from kvmove.model.names import Name
from kvmove.model.strict import Strict


class OwnershipState(StrEnum):
    OWNED = "owned"
    MOVING = "moving"  # a move is under way; the owner still runs the VM


class Ownership(Strict):
    """`owner` may run the VM, under `epoch`. Never expires: it changes by compare-and-swap alone.

    The record itself is the value compared: two records are the same ownership when all fields are equal.
    `epoch` grows with every commit, abort and take-back, and never falls.
    """

    vm: UUID
    owner: Name
    epoch: int
    state: OwnershipState = OwnershipState.OWNED
    move_id: str | None = None
    destination: Name | None = None
