"""The balance plans that were shown lately, so that what a person decides for is what is done.

A recommendation is known by its id, which stands for what it does and not for the figures of the moment. Invariant: of
recommendations shown for power none is taken from here: whether a host is idle is a matter of the moment. It keeps
nothing over a restart of the manager; what is asked for then has to be recommended still.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kvmove.errors import NotFound
from kvmove.model.placement import Action, BalancePlan, Recommendation

SHOWN_SECONDS = 900.0
MOST = 16


class _Plan(NamedTuple):
    at: float
    moves: dict[str, Recommendation]


class ShownPlans:
    """The newest `MOST` of the last `SHOWN_SECONDS`; times are seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._plans: list[_Plan] = []

    def remember(self, plan: BalancePlan, now: float) -> None:
        """Somebody sees this plan."""
        moves = {it.id: it for it in plan.recommendations if it.action is Action.MOVE}
        self._plans = [*self._fresh(now), _Plan(now, moves)][-MOST:]

    def choose(self, ids: Sequence[str], now: float) -> list[Recommendation] | None:
        """The recommendations of these ids as the newest plan that has them all showed them, in its order; None: no
        plan that is remembered has them all."""
        for plan in reversed(self._fresh(now)):
            if set(ids) <= set(plan.moves):
                return [it for name, it in plan.moves.items() if name in ids]
        return None

    def _fresh(self, now: float) -> list[_Plan]:
        return [plan for plan in self._plans if now - plan.at <= SHOWN_SECONDS]


def pick(plan: BalancePlan, ids: Sequence[str]) -> list[Recommendation]:
    """The recommendations of these ids, in the plan's order.

    :raise NotFound: it has not all of them.
    """
    known = {it.id: it for it in plan.recommendations}
    if unknown := [one for one in ids if one not in known]:
        raise NotFound(
            f"{', '.join(unknown)} is not recommended (any more)", hint="see what is now: kvmove balance plan"
        )
    return [it for name, it in known.items() if name in ids]
