"""What the moves of this manager hold of the admission slots, which all managers of one registry share.

Invariant: a move that runs is noted there from before any agent hears of it until it has ended, and nothing else is;
what the registry could not be told is told later (`registry.leased_slots`). Losing the registry or the lease ends no
move: it only keeps others from beginning, or lets another manager's begin beside it.

Deliberately not here: who of this manager's own is next (`turns`), and what a move takes (`admission.costs`).
"""

import logging
from collections.abc import Iterable

from kvmove.errors import Unreachable
from kvmove.manager.task_book import TaskBook
from kvmove.model.move import Claim
from kvmove.model.task import Task
from kvmove.registry.slots import Slots, Want

_LOG = logging.getLogger(__name__)


class MoveSlots:
    """The slots by task. Lives on one event loop. Without `slots` nobody else moves anything, and all is given."""

    def __init__(self, book: TaskBook, slots: Slots | None) -> None:
        self._book = book
        self._slots = slots
        self._held: set[str] = set()

    async def take(self, task_id: str, claims: tuple[Claim, ...]) -> str:
        """Take all that the move takes. Empty: it has it. Else what it waits for, and it has nothing."""
        if self._slots is None:
            return ""
        try:
            if not await self._slots.take(task_id, {it.key: Want(it.units, it.capacity) for it in claims}):
                return await self.short(claims) or "waits for room that moves of another manager take"
        except Unreachable as error:
            return f"waits for an answer: {error.detail}"
        self._held.add(task_id)
        return ""

    async def keep(self, task: Task) -> None:
        """Note what a move holds that ran before this manager was started, whether it fits or not."""
        if self._slots is None:
            return
        try:
            await self._slots.keep(task.id, {it.key: it.units for it in task.claims})
        except Unreachable as error:
            _LOG.warning("the slots of task %s are noted later: %s", task.id, error.detail)
        self._held.add(task.id)
        await self.settle(task.id)  # it may have ended meanwhile

    async def settle(self, task_id: str) -> None:
        """Give back what the move holds, unless it runs."""
        if self._slots is None or task_id not in self._held or self._runs(task_id):
            return
        self._held.discard(task_id)
        await self._slots.release(task_id)

    async def short(self, claims: Iterable[Claim]) -> str:
        """Of what there is too little left, in words; empty when there is room for all of it, or nobody can tell."""
        if self._slots is None:
            return ""
        try:
            taken = await self._slots.taken()
        except Unreachable:
            return ""
        return next((words for claim in claims if (words := self._words(claim, taken.get(claim.key, {})))), "")

    def _words(self, claim: Claim, holders: dict[str, int]) -> str:
        used = sum(holders.values())
        if used + claim.units <= claim.capacity:
            return ""
        others = sum(units for holder, units in holders.items() if holder not in self._held)
        whose = "" if others in (0, used) else f", {others} of them"
        by = f"{whose} by moves of another manager" if others else ""
        return f"waits for {claim.what}: {used} of {claim.capacity} units are taken{by}"

    def _runs(self, task_id: str) -> bool:
        return any(task.id == task_id for task in self._book.running())
