"""The board: what a reader sees in the middle does not change what is true in the end."""

from kvmove.errors import MoveFailed
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.phases import Course, HandOver
from kvmove.model.move import Phase
from tests.support.hand_over_rig import PLAN


def test_where_the_vm_is_follows_the_move_also_after_it_was_asked_for() -> None:
    board = MoveBoard(PLAN, Course(Phase.SWITCHING_OVER, HandOver.RETURNED))
    board.failing(MoveFailed("the destination could not"))
    during = board.status()
    board.ended(Phase.ABORTED)
    after = board.status()
    assert during.problem is not None
    assert during.problem["vm_state"] == during.vm_state == "about to go on at h1"
    assert after.problem is not None
    assert after.problem["vm_state"] == after.vm_state == "running on h1"


def test_the_first_reason_stays_and_a_vm_that_is_lost_is_told_instead() -> None:
    board = MoveBoard(PLAN)
    board.failing(MoveFailed("the mirror ended"))
    board.failing(MoveFailed("another"))
    assert (board.status().problem or {})["detail"] == "the mirror ended"
    board.failing(MoveFailed("QEMU ended"), instead=True)
    assert (board.status().problem or {})["detail"] == "QEMU ended"
    assert (board.status().problem or {})["step"] == "preparing"
