"""Ready-made nouns for tests that need some, and do not care which."""

from typing import Any
from uuid import UUID

from kvmove.model.host import DatastoreInfo, HostInfo, MigrationNic
from kvmove.model.move import (
    DiskPlacement,
    DiskProgress,
    DiskReport,
    HostRef,
    MemoryProgress,
    MovePlan,
    MoveProgress,
    MoveReport,
    MoveStatus,
    NicProgress,
    Phase,
    PhaseTime,
    Route,
)
from kvmove.model.ownership import Ownership, OwnershipState
from kvmove.model.probe import CpuFacts, QemuFacts
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import DiskDefinition, NicDefinition, VmDefinition, VmState, VmStatus
from kvmove.qemu.command_line import CPU_MODEL, MACHINE
from kvmove.units import GIB, MIB, parse_rate

WEB1 = UUID("11111111-1111-4111-8111-111111111111")
DB1 = UUID("22222222-2222-4222-8222-222222222222")
H1 = HostRef(name="h1", control="10.0.0.1:7441")
H2 = HostRef(name="h2", control="10.0.0.2:7441")
MOVE_ID = "7f3a9c21d5e04b68"


def definition(name: str = "web1", uuid: UUID = WEB1) -> VmDefinition:
    return VmDefinition(
        name=name,
        uuid=uuid,
        memory=512 * MIB,
        vcpus=2,
        disks=(DiskDefinition(name="root", datastore="local", size=2 * GIB),),
        nics=(NicDefinition(name="lan", bridge="br0", mac="52:54:00:00:00:01"),),
    )


def vm(host: str = "h1", state: VmState = VmState.RUNNING, epoch: int = 1, **more: Any) -> VmStatus:
    about = more.pop("definition", None) or definition()
    return VmStatus(definition=about, host=host, state=state, epoch=epoch, **more)


def host_info(name: str = "h1") -> HostInfo:
    number = name[1:]
    return HostInfo(
        name=name,
        control=f"10.0.0.{number}:7441",
        data_port=17450,
        version="0.1.0",
        qemu_version="7.2.22",
        accelerator="kvm",
        memory_total=8 * GIB,
        memory_free=6 * GIB,
        nics=(MigrationNic(name="mig0", address=f"10.10.0.{number}/24", speed=parse_rate("1Gbit")),),
        datastores=(
            DatastoreInfo(
                name="local", id=UUID(int=int(number)), path="/var/lib/kvmove/disks", size=100 * GIB, free=40 * GIB
            ),
        ),
        bridges=("br0",),
    )


def qemu_facts(*missing: str) -> QemuFacts:
    """A QEMU that has our machine and CPU model, but for the features `missing`."""
    features = ("popcnt", "sse4.1", "sse4.2", "ssse3")
    cpus = (CpuFacts(accelerator=it, model=CPU_MODEL, features=features, missing=missing) for it in ("kvm", "tcg"))
    return QemuFacts(machines=(MACHINE, "q35"), cpus=tuple(cpus))


def plan(epoch: int = 1) -> MovePlan:
    return MovePlan(
        move_id=MOVE_ID,
        vm=definition(),
        source=H1,
        destination=H2,
        disks=(DiskPlacement(name="root", size=2 * GIB, source_datastore="local", destination_datastore="local"),),
        routes=(
            Route(
                nic="mig0",
                source_address="10.10.0.1",
                destination_address="10.10.0.2",
                port=17450,
                speed=parse_rate("1Gbit"),
            ),
        ),
        epoch=epoch,
    )


def owned(owner: str = "h1", epoch: int = 1) -> Ownership:
    return Ownership(vm=WEB1, owner=owner, epoch=epoch)


def moving(epoch: int = 1, move_id: str = MOVE_ID) -> Ownership:
    return Ownership(vm=WEB1, owner="h1", epoch=epoch, state=OwnershipState.MOVING, move_id=move_id, destination="h2")


def progress(phase: Phase = Phase.COPYING_DISKS, percent: float = 42.0) -> MoveProgress:
    return MoveProgress(
        phase=phase,
        percent=percent,
        bytes_done=round(2.5 * GIB * percent / 100),
        bytes_total=round(2.5 * GIB),
        rate=117 * MIB,
        eta_seconds=9.0,
        elapsed_seconds=12.4,
        disks=(DiskProgress(name="root", total=2 * GIB, copied=round(2 * GIB * percent / 100)),),
        memory=MemoryProgress(total=512 * MIB),
        nics=(NicProgress(nic="mig0", sent=GIB, rate=117 * MIB, streams=2),),
    )


def report() -> MoveReport:
    return MoveReport(
        seconds=24.3,
        phases=(
            PhaseTime(phase=Phase.PREPARING, seconds=0.8),
            PhaseTime(phase=Phase.COPYING_DISKS, seconds=18.1),
            PhaseTime(phase=Phase.COPYING_MEMORY, seconds=4.2),
            PhaseTime(phase=Phase.SWITCHING_OVER, seconds=0.3),
            PhaseTime(phase=Phase.CLEANING_UP, seconds=0.9),
        ),
        downtime_ms=85.4,
        switchover_ms={"drain mirror": 12.0, "sync disks": 30.5, "device state": 25.0, "commit": 8.2},
        bytes_per_nic={"mig0": 2 * GIB, "mig1": GIB},
        memory_bytes=600 * MIB,
        memory_rounds=3,
        disks=(
            DiskReport(
                name="root",
                size=2 * GIB,
                data_sent=1900 * MIB,
                writes_forwarded=16_384,
                writes_ignored=3_072,
                recopied=4 * MIB,
                mode_changes=("12.1 s: sync, the guest outran the wire", "13.0 s: async"),
                source_digest="aa11",
                destination_digest="aa11",
            ),
        ),
        encrypted=True,
    )


def status(phase: Phase = Phase.COPYING_DISKS, percent: float = 42.0, **more: Any) -> MoveStatus:
    return MoveStatus(move_id=MOVE_ID, plan=plan(), progress=progress(phase, percent), vm_state="running on h1", **more)


def completed() -> MoveStatus:
    done = status(Phase.COMPLETED, 100.0, outcome=Phase.COMPLETED, report=report())
    return done.model_copy(update={"vm_state": "running on h2"})


def task(state: TaskState = TaskState.RUNNING, **more: Any) -> Task:
    fields: dict[str, Any] = {
        "id": MOVE_ID,
        "kind": "move",
        "vm": "web1",
        "source": "h1",
        "destination": "h2",
        "state": state,
        "created": "2026-11-23T08:00:00.000+00:00",
        "started": "2026-11-23T08:00:00.000+00:00",
        "plan": plan(),
        "progress": progress(),
        "vm_state": "running on h1",
    }
    return Task(**fields | more)
