"""Made-up hosts and VMs with loads, as a manager would have heard of them."""

from collections.abc import Sequence
from uuid import UUID, uuid5

from kvmove.model.host import DatastoreInfo, HostInfo, HostStatus, MigrationNic
from kvmove.model.load import DatastoreLoad, HostLoad, VmLoad
from kvmove.model.vm import DiskDefinition, VmDefinition, VmState, VmStatus
from kvmove.units import GIB, parse_rate

SHARED_ID = UUID(int=0x5A)
_NAMESPACE = UUID("c5a9df60-7a35-4d6b-8f6e-3a2f5a8f7c11")


def vm(
    name: str,
    host: str,
    *,
    memory: int = GIB,
    disk: str = "shared",
    size: int = 4 * GIB,
    state: VmState = VmState.RUNNING,
) -> VmStatus:
    """A VM with one disk on the datastore `disk`; none when that is empty."""
    disks = (DiskDefinition(name="root", datastore=disk, size=size),) if disk else ()
    definition = VmDefinition(name=name, uuid=uuid5(_NAMESPACE, name), memory=memory, disks=disks)
    return VmStatus(definition=definition, host=host, state=state, epoch=1)


def host(name: str, vms: Sequence[tuple[VmStatus, float]] = (), *, memory: int = 16 * GIB, cpus: int = 4) -> HostStatus:
    """A host that does nothing of its own; each VM with the cores that it keeps busy. Datastores: `shared`, `local`."""
    used = sum(vm.definition.memory for vm, _ in vms if vm.state is VmState.RUNNING)
    load = HostLoad(
        cpus=cpus,
        cpu_used=min(sum(cpu for _, cpu in vms) / cpus, 1.0),
        memory_total=memory,
        memory_used=used,
        vms=tuple(VmLoad(uuid=vm.definition.uuid, cpu=cpu, memory=vm.definition.memory) for vm, cpu in vms),
    )
    number = int(name[1:])
    info = HostInfo(
        name=name,
        control=f"10.0.{number // 250}.{number % 250}:7441",
        data_port=17450,
        version="0.1.0",
        qemu_version="7.2.22",
        accelerator="kvm",
        memory_total=memory,
        memory_free=memory - used,
        nics=(
            MigrationNic(name="mig0", address=f"10.10.{number // 250}.{number % 250}/16", speed=parse_rate("1Gbit")),
        ),
        datastores=(
            DatastoreInfo(name="shared", id=SHARED_ID, path="/srv/shared", size=1000 * GIB, free=500 * GIB),
            DatastoreInfo(name="local", id=UUID(int=1000 + number), path="/srv/local", size=100 * GIB, free=50 * GIB),
        ),
        load=load,
    )
    return HostStatus(name=name, control=info.control, reachable=True, info=info)


def with_stores(status: HostStatus, stores: Sequence[DatastoreInfo], write_ms: dict[str, float]) -> HostStatus:
    """The host with these datastores instead, and how long a write to each takes."""
    assert status.info is not None and status.info.load is not None
    latency = tuple(DatastoreLoad(name=name, write_ms=ms) for name, ms in write_ms.items())
    load = status.info.load.model_copy(update={"datastores": latency})
    info = status.info.model_copy(update={"datastores": tuple(stores), "load": load})
    return status.model_copy(update={"info": info})
