"""The check before a move: gathers what the hosts and the registry say, and lets `migration.plan` judge it.

Invariant: a check changes nothing. It does not know which moves this manager has under way; `moves` does.
"""

import secrets

from kvmove.errors import Busy, Unreachable
from kvmove.manager.inventory import Inventory
from kvmove.migration.plan import check, make_plan
from kvmove.model.image import DiskImage
from kvmove.model.move import MoveCheck, MoveRequest
from kvmove.model.ownership import Ownership, OwnershipState
from kvmove.model.vm import VmStatus
from kvmove.registry.interface import Registry


class Checks:
    """Checks of moves between the hosts of `inventory`. Lives on one event loop."""

    def __init__(self, inventory: Inventory, registry: Registry) -> None:
        self._inventory = inventory
        self._registry = registry

    async def find(self, request: MoveRequest) -> VmStatus:
        """The VM of the request, as its host sees it now.

        :raise NotFound: no such VM or host.
        """
        await self._inventory.refresh()
        if request.host is not None:
            self._inventory.host(request.host)
        return self._inventory.vm(request.vm)

    async def check(self, request: MoveRequest, vm: VmStatus) -> MoveCheck:
        """What the move would do, and what to know before it starts.

        :raise CheckFailed: something blocks it; all that was found is in `checks`.
        :raise Busy: the VM is moving.
        """
        record = await self._registry.get(vm.definition.uuid)
        _refuse_moving(vm, record)
        hosts = {host.name: host for host in self._inventory.hosts()}
        images = await self._images(vm)
        plan = make_plan(request, vm, hosts, record, secrets.token_hex(8), images)
        return MoveCheck(plan=plan, findings=tuple(check(request, vm, hosts, record, images)))

    async def _images(self, vm: VmStatus) -> dict[str, DiskImage]:
        """Those of the VM's disks; none where its host does not answer, which the checks say themselves."""
        try:
            return {image.name: image for image in await self._inventory.agent(vm.host).images(vm.definition.uuid)}
        except Unreachable:
            return {}


def _refuse_moving(vm: VmStatus, record: Ownership | None) -> None:
    if record is not None and record.state is OwnershipState.MOVING:
        raise Busy(
            f"{vm.definition.name} moves from {record.owner} to {record.destination} already (move {record.move_id})",
            hint="wait until that move has ended",
            vm_state=f"{vm.state} on {vm.host}",
        )
