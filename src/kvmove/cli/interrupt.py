"""What Ctrl-C means while a command waits for a move: leave it alone first, stop it only when asked twice. Pure.

    waiting ── Ctrl-C ──> leaving (for 2 s) ── nothing ──> detached: the move goes on, the command ends
                             └────── Ctrl-C ──────> cancelling: the manager is asked, the command waits on
    cancelling ── Ctrl-C ──> detached at once

Invariant: one Ctrl-C never changes anything about the move.
"""

from enum import Enum, auto

LEAVE_SECONDS = 2.0


class Stance(Enum):
    WAITING = auto()
    LEAVING = auto()
    CANCELLING = auto()
    DETACHED = auto()


_ON_PRESS = {
    Stance.WAITING: Stance.LEAVING,
    Stance.LEAVING: Stance.CANCELLING,
    Stance.CANCELLING: Stance.DETACHED,
    Stance.DETACHED: Stance.DETACHED,
}


def pressed(stance: Stance) -> Stance:
    """The stance after one Ctrl-C more."""
    return _ON_PRESS[stance]


def timed_out(stance: Stance) -> Stance:
    """The stance after `LEAVE_SECONDS` without another Ctrl-C."""
    return Stance.DETACHED if stance is Stance.LEAVING else stance
