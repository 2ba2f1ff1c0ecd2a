"""REST: VMs. `{vm}` is a name, a UUID or the beginning of either; to delete one, all of it."""

from fastapi import APIRouter

from kvmove.errors import Busy
from kvmove.manager.balancing import Balancer
from kvmove.manager.inventory import Inventory
from kvmove.model.vm import VmPlacement, VmStatus


def vms_router(inventory: Inventory, balancer: Balancer) -> APIRouter:
    """`/vms` and what can be done with one. The host's agent does it; the manager only finds the agent."""
    router = APIRouter(prefix="/vms", tags=["VMs"])

    async def find(vm: str, *, exact: bool = False) -> VmStatus:
        await inventory.refresh()
        return inventory.vm(vm, exact=exact)

    @router.get("")
    async def list_vms() -> list[VmStatus]:
        await inventory.refresh()
        return inventory.vms()

    @router.get("/{vm}")
    async def show_vm(vm: str) -> VmStatus:
        return await find(vm)

    @router.post("", status_code=201)
    async def define_vm(placement: VmPlacement) -> VmStatus:
        await inventory.refresh()
        for other in inventory.vms():
            _check_distinct(placement, other)
        placement = await balancer.resolve_new(placement)
        inventory.answering(placement.host)
        inventory.require_open(placement.host)
        return await inventory.agent(placement.host).define(placement.definition)

    @router.post("/{vm}:start")
    async def start_vm(vm: str) -> VmStatus:
        found = await find(vm)
        inventory.require_open(found.host)
        return await inventory.agent(found.host).start(found.definition.uuid)

    @router.post("/{vm}:stop")
    async def stop_vm(vm: str) -> VmStatus:
        found = await find(vm)
        return await inventory.agent(found.host).stop(found.definition.uuid)

    @router.post("/{vm}:kill")
    async def kill_vm(vm: str) -> VmStatus:
        found = await find(vm)
        return await inventory.agent(found.host).kill(found.definition.uuid)

    @router.post("/{vm}:pause")
    async def pause_vm(vm: str) -> VmStatus:
        found = await find(vm)
        return await inventory.agent(found.host).pause(found.definition.uuid)

    @router.post("/{vm}:resume")
    async def resume_vm(vm: str) -> VmStatus:
        found = await find(vm)
        return await inventory.agent(found.host).resume(found.definition.uuid)

    @router.delete("/{vm}", status_code=204)
    async def delete_vm(vm: str) -> None:
        found = await find(vm, exact=True)
        await inventory.agent(found.host).delete(found.definition.uuid)

    return router


def _check_distinct(placement: VmPlacement, other: VmStatus) -> None:
    """Two VMs of one name would make every later command ask which one is meant."""
    new = placement.definition
    if new.name == other.definition.name or new.uuid == other.definition.uuid:
        raise Busy(
            f"there is a VM {other.definition.name} ({other.definition.uuid}) on {other.host} already",
            hint="take another name and another UUID, or delete that VM first",
        )
