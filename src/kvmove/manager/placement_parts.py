"""Puts together the parts that decide where VMs are: maintenance and balancing over what the manager has."""

from pathlib import Path
from typing import NamedTuple

from kvmove.admission.costs import Limits
from kvmove.manager.balance_settings import BalanceSettings
from kvmove.manager.balancing import Balancer, Helpers
from kvmove.manager.inventory import Inventory
from kvmove.manager.maintenance import Maintenance
from kvmove.manager.moves import Moves
from kvmove.manager.placement_store import PlacementStore
from kvmove.manager.placing import Placing
from kvmove.manager.task_book import TaskBook


class PlacementParts(NamedTuple):
    """Close both in the end, the balancer first."""

    maintenance: Maintenance
    balancer: Balancer

    async def close(self) -> None:
        await self.balancer.close()
        await self.maintenance.close()


_USUAL = Limits()


def placement_parts(
    settings: BalanceSettings,
    state: Path,
    inventory: Inventory,
    moves: Moves,
    book: TaskBook,
    limits: Limits = _USUAL,
) -> PlacementParts:
    """The parts; what they keep is in the folder `state`, and they plan with the `limits` that admission has.

    :raise NeedsAttention: what was kept is damaged.
    """
    store = PlacementStore(state)
    placing = Placing(inventory, store, settings.rest_seconds, limits)
    maintenance = Maintenance(inventory, moves, book, store, placing)
    return PlacementParts(maintenance, Balancer(settings, Helpers(placing, moves, book, store, maintenance)))
