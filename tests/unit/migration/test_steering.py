"""An operator's words on a running move: what each does, when it is too late, and what is told of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kvmove.errors import Busy, CheckFailed
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.steering import Steering
from kvmove.model.move import Phase
from kvmove.model.terms import TermsChange
from kvmove.qemu.migration import HELD_THROTTLE
from kvmove.units import MIB
from tests.support.hand_over_rig import PLAN

NOON = datetime(2031, 1, 2, 12, 0, tzinfo=UTC)


class At:
    """A steered move, and the time of day."""

    def __init__(self, **terms: Any) -> None:
        plan = PLAN.model_copy(update=terms)
        self.now = NOON
        self.board = MoveBoard(plan)
        self.steering = Steering(plan, self.board, lambda: self.now)

    def message(self) -> str:
        return self.board.status().progress.message

    def changes(self) -> list[str]:
        return [change.what for change in self.board._changes]


def test_a_move_goes_on_by_itself() -> None:
    at = At()
    assert at.steering.may_go_on()
    assert at.message() == ""
    with pytest.raises(Busy, match="by itself"):
        at.steering.give_word("ann")


def test_manual_waits_for_the_word() -> None:
    at = At(switchover="manual")
    assert not at.steering.may_go_on()
    assert at.message() == "in step; waits for the word to switch over"
    assert at.board.status().progress.waits_for_word
    at.steering.give_word("ann")
    assert at.steering.may_go_on()
    assert at.message() == ""
    assert at.changes() == ["in step; waits for its switchover", "told to switch over by ann"]


def test_a_word_that_comes_early_is_kept() -> None:
    at = At(switchover="manual")
    at.steering.give_word("ann")
    assert at.steering.may_go_on()


def test_a_time_is_waited_for_or_a_word() -> None:
    when = NOON + timedelta(hours=9)
    at = At(switchover=when.isoformat())
    assert not at.steering.may_go_on()
    assert at.message() == "in step; switches over at 2031-01-02T21:00:00+00:00, or at a word"
    at.now = when
    assert at.steering.may_go_on()
    at = At(switchover=when.isoformat())
    at.steering.give_word("ann")
    assert at.steering.may_go_on()


def test_a_pause_holds_whatever_else_is_said() -> None:
    at = At(switchover="manual")
    at.steering.pause("ann")
    at.steering.pause("bob")
    at.steering.give_word("ann")
    assert not at.steering.may_go_on()
    progress = at.board.status().progress
    assert (progress.message, progress.paused_by, progress.eta_seconds) == ("paused by ann", "ann", None)
    at.steering.resume("bob")
    assert at.steering.may_go_on()
    with pytest.raises(Busy, match="not paused"):
        at.steering.resume("bob")


def test_a_guest_that_is_slowed_is_not_left_so() -> None:
    at = At()
    at.steering.throttle = 30
    with pytest.raises(CheckFailed, match="30 %"):
        at.steering.pause("ann")
    assert at.message() == ""


def test_what_a_held_migration_leaves_of_the_slowing_does_not_keep_from_a_pause() -> None:
    at = At()
    at.steering.slowed(40)
    with pytest.raises(CheckFailed):
        at.steering.pause("ann")
    at.steering.slowed(HELD_THROTTLE)
    at.steering.slowed(HELD_THROTTLE)
    at.steering.pause("ann")
    assert at.changes()[1:] == ["vCPUs are held back no more", "paused by ann"]


def test_a_pause_in_which_the_guest_is_slowed_ends() -> None:
    at = At()
    at.steering.pause("ann")
    at.steering.end_pause("the guest is slowed")
    assert not at.steering.is_paused and at.message() == ""
    assert at.changes()[-1] == "the pause by ann is over: the guest is slowed"


@pytest.mark.parametrize("ends", ["switches", "aborts"])
def test_once_it_is_too_late_nothing_is_taken(ends: str) -> None:
    at = At(switchover="manual", bandwidth=MIB)
    at.steering.pause("ann")
    account = at.steering.copy_terms.bandwidth
    account.sent_bulk(100 * MIB)
    assert not account.may_send_bulk()
    if ends == "switches":
        at.steering.is_over()
        assert at.message() == ""
        assert at.changes()[-1] == "the pause by ann came too late: the guest stood for its switchover"
        assert account.may_send_bulk(), "nothing is capped while the guest stands still"
    else:
        at.board.enter(Phase.ABORTING)
    for word in (at.steering.pause, at.steering.resume, at.steering.give_word):
        with pytest.raises(Busy):
            word("ann")
    with pytest.raises(Busy):
        at.steering.change(TermsChange(bandwidth=MIB), "ann")


def test_limits_are_changed_one_by_one() -> None:
    at = At(bandwidth=5 * MIB)
    at.steering.change(TermsChange(max_downtime_ms=900), "ann")
    progress = at.board.status().progress
    assert (progress.bandwidth, progress.max_downtime_ms) == (5 * MIB, 900)
    at.steering.change(TermsChange(bandwidth=0), "ann")
    assert at.board.status().progress.bandwidth == 0
    assert at.changes() == ["downtime limit set to 900 ms by ann", "bandwidth set to no cap by ann"]
