"""What an operator does to a move that runs: pause its copy, let it switch over, change its limits.

    pause        no region is begun, and memory is held in front of the network; what is copied stays in step, so
                 nothing has to be copied again and the guest is never held
    the word     a move whose switchover is not automatic stands in step, for as long as it takes, until it is given
    limits       hold from the next moment on; one cap for disks and memory together

Invariant: once the guest stands still for its switchover (`is_over`) nothing of this holds anything back any more.
What was done, by whom, is on the board and in the report; `said` is in a copy's checkpoint, for an agent that goes on.

Deliberately not here: the phases (they ask `may_go_on`), and QEMU.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from kvmove.errors import Busy, CheckFailed
from kvmove.memory.relay_process import RelayProcess
from kvmove.migration import phases
from kvmove.migration.checkpoint import Steered
from kvmove.migration.move_board import MoveBoard
from kvmove.model.move import MovePlan
from kvmove.model.terms import AUTO, MANUAL, TermsChange
from kvmove.mover.compression import Compression
from kvmove.mover.disk_move import DiskMove
from kvmove.mover.move_terms import CopyTerms
from kvmove.qemu.migration import HELD_THROTTLE
from kvmove.transport.bandwidth import Bandwidth, shares
from kvmove.units import format_duration, format_rate


class Steering:
    """Of one move; lives on the agent's loop. `clock` tells the time of day."""

    def __init__(
        self, plan: MovePlan, board: MoveBoard, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.max_downtime_ms = plan.max_downtime_ms
        self.throttle = 0
        """Percent of the time that vCPUs are held back now."""
        self._board = board
        self._clock = clock
        self._cap = plan.bandwidth
        self._switchover = plan.switchover
        self._account = Bandwidth(plan.bandwidth or None)
        hold = plan.max_write_latency_ms
        max_hold = hold / 1000 if hold is not None else None
        self.copy_terms = CopyTerms(self._account, max_hold, Compression(plan.compress))
        self._disks: DiskMove | None = None
        self._relay: RelayProcess | None = None
        self._paused_by = ""
        self._has_word = False
        self._is_over = False
        self._written = 0
        self._tell()

    # The move tells what there is to steer.

    def steer_disks(self, disks: DiskMove) -> None:
        self._disks = disks
        disks.pause_copy(paused=bool(self._paused_by))

    def steer_memory(self, relay: RelayProcess) -> None:
        """Memory begins to be sent: the network is shared from now on."""
        self._relay = relay
        self._written = self._account.bulk_bytes + self._account.write_bytes
        self.share(1.0)

    def share(self, seconds: float) -> None:
        """Divide the cap anew, `seconds` after it was divided last."""
        if self._relay is None:
            return
        written = self._account.bulk_bytes + self._account.write_bytes
        rate, self._written = (written - self._written) / seconds, written
        memory: int | None = None
        if self._cap:
            disks, memory = shares(self._cap, rate)
            self._account.set_cap(disks)
        self._relay.limit(0 if self._paused_by else memory)

    def is_over(self) -> None:
        """The guest stands still: nothing is held back any more. A pause that came too late ends."""
        if self._paused_by:
            self._board.note(f"the pause by {self._paused_by} came too late: the guest stood for its switchover")
        self._is_over, self._paused_by, self._board.remark = True, "", ""
        if self._relay is not None:
            self._relay.limit(None)
        if self._disks is not None:
            self._disks.pause_copy(paused=False)
            self._disks.slow_no_more()
        self._account.set_cap(None)
        self._tell()

    def may_go_on(self) -> bool:
        """Whether the move, which is in step, may go on to its switchover now; what it waits for is told."""
        if self._paused_by:
            self._tell()
            return False
        waits = not self._has_word and not self._is_time()
        if waits and not self._board.waits_for_word:
            self._board.note("in step; waits for its switchover")
        self._board.waits_for_word = waits
        self._tell()
        return not waits

    @property
    def said(self) -> Steered:
        """What an operator has said so far, for an agent that goes on with the move."""
        return Steered(
            paused_by=self._paused_by, bandwidth=self._cap or 0, max_downtime_ms=self.max_downtime_ms,
            has_word=self._has_word,
        )  # fmt: skip

    def say_again(self, said: Steered) -> None:
        """It holds on in this agent as in the one before."""
        self._has_word = said.has_word
        self._cap, self._board.bandwidth = said.bandwidth, said.bandwidth
        self._account.set_cap(said.bandwidth or None)
        self.max_downtime_ms = self._board.max_downtime_ms = said.max_downtime_ms
        self._paused_by = said.paused_by
        self._apply_pause()

    @property
    def is_paused(self) -> bool:
        return bool(self._paused_by)

    # The operator's words.

    def pause(self, by: str) -> None:
        """:raise Busy: it is too late. :raise CheckFailed: the guest is slowed, and would stay so."""
        self._require_time("paused")
        if self.throttle:
            raise CheckFailed(
                f"The guest's vCPUs are held back {self.throttle} % of the time so that its memory converges; a pause "
                "would leave them so, because QEMU lets them go only when the migration ends",
                hint="Let it go on, or cancel it: kvmove task cancel ID.",
            )
        if self._paused_by:
            return
        self._paused_by = by
        self._apply_pause()
        self._board.note(f"paused by {by}")

    def resume(self, by: str) -> None:
        """:raise Busy: it is too late, or it is not paused."""
        self._require_time("resumed")
        if not self._paused_by:
            raise Busy("The move is not paused.")
        self._paused_by = ""
        self._apply_pause()
        self._board.note(f"resumed by {by}")

    def slowed(self, percent: int) -> None:
        """QEMU holds vCPUs back so much of the time. HELD_THROTTLE is what a held migration leaves: as good as none."""
        held = percent if percent > HELD_THROTTLE else 0
        if held == self.throttle:
            return
        self.throttle = held
        self._board.note(
            f"vCPUs held back {held} % of the time: the guest changes memory faster than it is sent"
            if held
            else "vCPUs are held back no more"
        )

    def end_pause(self, why: str) -> None:
        """A pause that would harm the guest is over."""
        self._board.note(f"the pause by {self._paused_by} is over: {why}")
        self._paused_by = ""
        self._apply_pause()

    def give_word(self, by: str) -> None:
        """Let it switch over: at once if it is in step, else as soon as it is.

        :raise Busy: it is too late, or it does so by itself.
        """
        self._require_time("let go")
        if self._switchover == AUTO:
            raise Busy(
                "The move switches over by itself as soon as it can.",
                hint="Start one with --switchover manual to say when.",
            )
        if not self._has_word:
            self._has_word = True
            self._board.note(f"told to switch over by {by}")

    def change(self, wanted: TermsChange, by: str) -> None:
        """:raise Busy: it is too late."""
        self._require_time("changed")
        if wanted.bandwidth is not None:
            self._cap = wanted.bandwidth
            self._account.set_cap(self._cap or None)
            self.share(1.0)
            self._board.note(f"bandwidth set to {format_rate(self._cap) if self._cap else 'no cap'} by {by}")
        if wanted.max_downtime_ms is not None:
            self.max_downtime_ms = wanted.max_downtime_ms
            self._board.note(f"downtime limit set to {format_duration(self.max_downtime_ms / 1000)} by {by}")
        self._tell()

    def _require_time(self, done: str) -> None:
        if self._is_over or not phases.may_cancel(self._board.course):
            raise Busy(f"The move cannot be {done} any more: it is switching over, or has ended.")

    def _apply_pause(self) -> None:
        if self._disks is not None:
            self._disks.pause_copy(paused=bool(self._paused_by))
        self.share(1.0)
        self._tell()

    def _is_time(self) -> bool:
        if self._switchover in (AUTO, MANUAL):
            return self._switchover == AUTO
        return self._clock() >= datetime.fromisoformat(self._switchover)

    def _tell(self) -> None:
        board = self._board
        board.paused_by, board.bandwidth, board.max_downtime_ms = self._paused_by, self._cap, self.max_downtime_ms
        board.waits_for_word = board.waits_for_word and not self._is_over and not self._has_word
        if self._paused_by:
            board.standing = f"paused by {self._paused_by}"
        elif board.waits_for_word and self._switchover == MANUAL:
            board.standing = "in step; waits for the word to switch over"
        elif board.waits_for_word:
            board.standing = f"in step; switches over at {self._switchover}, or at a word"
        else:
            board.standing = ""
