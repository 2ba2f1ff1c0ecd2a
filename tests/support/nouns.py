"""Ready-made nouns for tests: a VM, hosts, a plan. Each can be changed by `model_copy(update=…)`."""

from uuid import UUID

from kvmove.model.host import DatastoreInfo, HostInfo, HostStatus, MigrationNic
from kvmove.model.move import DiskPlacement, HostRef, MovePlan, MoveProgress, MoveStatus, Phase, Route
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import DiskDefinition, NicDefinition, VmDefinition, VmState, VmStatus
from kvmove.units import GIB, MIB

VM = UUID(int=0xABC)
BETWEEN = {"source_datastore": "local", "destination_datastore": "local", "why": "h1 does not reach local"}


def vm_definition() -> VmDefinition:
    """`web`: 512 MiB, two disks of 1 and 2 GiB on `local`, one NIC on `br0`."""
    return VmDefinition(
        name="web",
        uuid=VM,
        memory=512 * MIB,
        disks=(
            DiskDefinition(name="root", datastore="local", size=1 * GIB),
            DiskDefinition(name="data", datastore="local", size=2 * GIB),
        ),
        nics=(NicDefinition(name="eth0", bridge="br0", mac="52:54:00:00:00:01"),),
    )


def vm_status() -> VmStatus:
    """`web`, running on h1 under epoch 3."""
    return VmStatus(definition=vm_definition(), host="h1", state=VmState.RUNNING, epoch=3, pid=100, accelerator="tcg")


def host_status(number: int) -> HostStatus:
    """`h<number>` with NICs `mig0`, `mig1` on 10.10.0.0/24 and 10.11.0.0/24, and datastores `local` and `fast`."""
    info = HostInfo(
        name=f"h{number}",
        control=f"192.168.0.{number}:7441",
        data_port=17450,
        version="0.1.0",
        qemu_version="7.2.22",
        accelerator="tcg",
        memory_total=8 * GIB,
        memory_free=4 * GIB,
        nics=(
            MigrationNic(name="mig0", address=f"10.10.0.{number}/24", speed=125_000_000),
            MigrationNic(name="mig1", address=f"10.11.0.{number}/24", speed=125_000_000),
        ),
        datastores=(
            DatastoreInfo(name="local", id=UUID(int=number * 10), path="/srv/local", size=100 * GIB, free=50 * GIB),
            DatastoreInfo(name="fast", id=UUID(int=number * 10 + 1), path="/srv/fast", size=10 * GIB, free=5 * GIB),
        ),
        bridges=("br0",),
    )
    return HostStatus(name=info.name, control=info.control, reachable=True, info=info)


def move_plan() -> MovePlan:
    """`web` from h1 to h2, move `m1`, over one route."""
    return MovePlan(
        move_id="m1",
        vm=vm_definition(),
        source=HostRef(name="h1", control="192.168.0.1:7441"),
        destination=HostRef(name="h2", control="192.168.0.2:7441"),
        disks=(
            DiskPlacement(name="root", size=1 * GIB, space=1 * GIB, **BETWEEN),
            DiskPlacement(name="data", size=2 * GIB, space=2 * GIB, **BETWEEN),
        ),
        routes=(Route(nic="mig0", source_address="10.10.0.1", destination_address="10.10.0.2", port=17450),),
        epoch=3,
    )


def move_status() -> MoveStatus:
    """Move `m1`, which copies disks."""
    return MoveStatus(
        move_id="m1", plan=move_plan(), progress=MoveProgress(phase=Phase.COPYING_DISKS), vm_state="running on h1"
    )


def task(revision: int = 0) -> Task:
    """The running task of move `m1`."""
    return Task(
        id="m1",
        kind="move",
        vm="web",
        source="h1",
        destination="h2",
        state=TaskState.RUNNING,
        created="2026-11-20T10:00:00.000+00:00",
        started="2026-11-20T10:00:00.000+00:00",
        revision=revision,
    )
