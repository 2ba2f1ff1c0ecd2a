"""One manager's slots: under a lease that is renewed in the background, and taken anew when the lease was lost.

Invariant: what this manager believes to hold is what the engine has under its lease, or will have one round of `run`
after the engine answers again. A lease is lost when the engine did not answer for its whole length, or the manager
slept. Others may have taken the slots then; the moves they were for run on, so they are noted again whether they fit
or not, and nothing else is started there until there is room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from kvmove.errors import KvmoveError
from kvmove.registry.slots import Outcome, SlotStore, Units, Want, by_slot, check_wants, units_of

log = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
"""So long after a manager's crash its slots are free again."""

_RENEWALS = 3
"""Chances to renew within the length of a lease."""


class LeasedSlots:
    """See the file's head. `run` must run as long as something is held. Lives on one event loop."""

    def __init__(self, store: SlotStore, *, seconds: float = LEASE_SECONDS) -> None:
        self._store = store
        self._seconds = seconds
        self._lease: str | None = None
        self._mine: dict[str, Units] = {}
        self._asking = asyncio.Lock()

    async def run(self) -> None:
        """Keep the lease, until cancelled."""
        while True:
            await asyncio.sleep(self._seconds / _RENEWALS)
            try:
                async with self._asking:
                    await self._look_after()
            except KvmoveError as error:
                log.warning("the admission slots cannot be kept up: %s", error.detail)

    async def take(self, holder: str, wants: Mapping[str, Want]) -> bool:
        check_wants(wants)
        async with self._asking:
            outcome = await self._put(holder, wants, anyway=False)
            if outcome is Outcome.TAKEN:
                self._mine[holder] = units_of(wants)
        return outcome is Outcome.TAKEN

    async def keep(self, holder: str, units: Units) -> None:
        async with self._asking:
            self._mine[holder] = dict(units)
            await self._put(holder, _as_wants(units), anyway=True)

    async def release(self, holder: str) -> None:
        async with self._asking:
            self._mine.pop(holder, None)
            try:
                await self._store.drop(holder)
            except KvmoveError as error:
                log.warning("the slots of %s are given back later: %s", holder, error.detail)

    async def taken(self) -> dict[str, dict[str, int]]:
        return by_slot(await self._store.held())

    async def close(self) -> None:
        await self._store.close()

    async def _put(self, holder: str, wants: Mapping[str, Want], *, anyway: bool) -> Outcome:
        while True:
            lease = self._lease or await self._begin_lease()
            outcome = await self._store.put(lease, holder, wants, anyway=anyway)
            if outcome is not Outcome.LEASE_LOST:
                return outcome
            self._lose_lease()

    async def _begin_lease(self) -> str:
        """A new lease, with what was held under the former one."""
        lease = await self._store.new_lease(self._seconds)
        for holder, units in self._mine.items():
            await self._store.put(lease, holder, _as_wants(units), anyway=True)
        self._lease = lease
        return lease

    def _lose_lease(self) -> None:
        self._lease = None
        log.warning("the lease of the admission slots was lost; %d are taken anew", len(self._mine))

    async def _look_after(self) -> None:
        """Renew the lease, and make the engine hold what is ours: an answer that was lost left it with more or less."""
        if self._lease is not None and not await self._store.renew(self._lease):
            self._lose_lease()
        if self._lease is None:
            if self._mine:
                await self._begin_lease()
            return
        stored = {it.holder: it for it in await self._store.held() if it.lease == self._lease}
        for holder in stored.keys() - self._mine.keys():
            await self._store.drop(holder)
        for holder in self._mine.keys() - stored.keys():
            await self._put(holder, _as_wants(self._mine[holder]), anyway=True)


def _as_wants(units: Units) -> dict[str, Want]:
    return {name: Want(number, number) for name, number in units.items()}
