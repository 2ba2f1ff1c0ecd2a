"""A host without its network: a datastore, a registry in a file, and the manager of its VMs, which can be restarted."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

from kvmove.agent.launcher import Launcher
from kvmove.agent.vm_store import VmStore
from kvmove.agent.vms import VmManager
from kvmove.disk.datastore import Datastore
from kvmove.errors import Unreachable
from kvmove.model.ownership import Ownership
from kvmove.model.vm import DiskDefinition, VmDefinition
from kvmove.qemu.instance import end_found
from kvmove.registry.sqlite import SqliteRegistry
from tests.support.boot_guest import DISK_SIZE, write_boot_disk

HOST = "h1"


class FailingRegistry(SqliteRegistry):
    """Does not answer while `down`."""

    down = False

    async def get(self, vm: UUID) -> Ownership | None:
        self._answer()
        return await super().get(vm)

    async def claim(self, vm: UUID, host: str) -> Ownership:
        self._answer()
        return await super().claim(vm, host)

    def _answer(self) -> None:
        if self.down:
            raise Unreachable("the registry is down")


class VmHost:
    """`vms` is the manager of now; `stores` are the host's datastores."""

    def __init__(self, folder: Path, devices: Sequence[str] = ()) -> None:
        self.folder = folder
        self.registry = FailingRegistry(folder / "registry.db")
        (folder / "ds").mkdir()
        self.stores: Mapping[str, Datastore] = {"ds": Datastore.create("ds", folder / "ds")}
        if devices:
            self.stores = {"ds": Datastore.open("ds", folder / "ds", devices)}
        self._run = TemporaryDirectory(prefix="kv-")  # a socket's path must be short, and a test's folder is long
        self.launcher = Launcher(Path(self._run.name), folder / "state", self.stores, "tcg")
        self.vms = self._manager()

    def _manager(self) -> VmManager:
        return VmManager(HOST, VmStore(self.folder / "state"), self.launcher, self.registry)

    async def restart(self) -> None:
        """What a restart of the agent does to the VMs: nothing, one hopes."""
        await self.vms.close()
        self.vms = self._manager()
        await self.vms.recover()

    async def started(self, *, powers_off: bool = False) -> VmDefinition:
        """A new VM that runs the boot-sector guest."""
        vm = definition()
        await self.vms.define(vm)
        write_boot_disk(self.disk(vm), powers_off=powers_off)
        await self.vms.start(vm.uuid)
        return vm

    def disk(self, vm: VmDefinition) -> Path:
        """The file of the VM's first disk."""
        return self.stores["ds"].disk_path(vm.uuid, vm.disks[0])

    def leftovers(self, vm: UUID) -> list[Path]:
        """What is there of the VM's QEMU."""
        folder = self.launcher.paths(vm).folder
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _with_qemu(self) -> list[UUID]:
        return [UUID(folder.name) for folder in Path(self._run.name).glob("vms/*")]

    async def tidy(self) -> None:
        """End whatever QEMU a test has left."""
        await self.vms.close()
        for vm in self._with_qemu():
            await end_found(vm, self.launcher.paths(vm))
        await self.registry.close()
        self._run.cleanup()


def definition(name: str = "web", uuid: UUID | None = None) -> VmDefinition:
    """A small VM with one disk and no network card."""
    disk = DiskDefinition(name="root", datastore="ds", size=DISK_SIZE)
    return VmDefinition(name=name, uuid=uuid or uuid4(), memory=64 << 20, disks=(disk,))


@asynccontextmanager
async def vm_host(folder: Path, devices: Sequence[str] = ()) -> AsyncIterator[VmHost]:
    host = VmHost(folder, devices)
    try:
        yield host
    finally:
        await host.tidy()
