"""What any manager changes in the registry is looked at here at once, not at the inventory's next round.

A VM that another manager of the same etcd has moved is then shown at its new host. It decides nothing: news may be old,
so whoever decides reads the registry.
"""

import asyncio
import logging
from contextlib import aclosing
from uuid import UUID

from kvmove.errors import KvmoveError
from kvmove.manager.inventory import Inventory
from kvmove.model.ownership import Ownership
from kvmove.registry.interface import Change, FullList, Watchable

_LOG = logging.getLogger(__name__)

AGAIN_SECONDS = 5.0


async def keep_fresh(registry: Watchable, inventory: Inventory) -> None:
    """Ask the hosts that a change concerns, for ever, until cancelled."""
    known: dict[UUID, Ownership] = {}
    while True:
        try:
            async with aclosing(registry.watch()) as news:
                async for it in news:
                    await inventory.look_at(_concerned(it, known))
        except KvmoveError as error:
            _LOG.warning("the registry tells nothing new: %s", error.detail)
        await asyncio.sleep(AGAIN_SECONDS)


def _concerned(news: FullList | Change, known: dict[UUID, Ownership]) -> set[str]:
    """The hosts whose VMs may be others now: the owners of before and after. `known` is brought up to date."""
    before = dict(known)
    if isinstance(news, FullList):
        known.clear()
        known.update({record.vm: record for record in news.records})
    elif news.record is None:
        known.pop(news.vm, None)
    else:
        known[news.vm] = news.record
    changed = [vm for vm in before.keys() | known.keys() if before.get(vm) != known.get(vm)]
    return {it.owner for vm in changed for it in (before.get(vm), known.get(vm)) if it is not None}
