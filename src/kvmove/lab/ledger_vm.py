"""The lab's guest as a VM: the ledger guest with its memory and disks, defined, filled and started through the manager.

Its number is its number everywhere: in the ledger, in its address, in its MAC address.
"""

import asyncio
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid5

from kvmove.disk.claims import SUFFIX
from kvmove.errors import NotFound
from kvmove.lab import addresses, preparation
from kvmove.lab.commands import LabFailed
from kvmove.lab.disk_image import find
from kvmove.lab.guest.image import GuestImage
from kvmove.lab.guest.options import GuestOptions, Mode
from kvmove.lab.guest.prefill import Prefill, prefill
from kvmove.lab.guest.recorder_log import RecorderLog
from kvmove.lab.lab import Lab
from kvmove.lab.lab_host import LabHost
from kvmove.lab.spec import BLOCK, BLOCK_SHARED, LOCAL
from kvmove.model.vm import (
    NO_SWAP,
    BootDefinition,
    DiskDefinition,
    DiskFormat,
    NicDefinition,
    Provisioning,
    VmDefinition,
)
from kvmove.units import GIB, MIB

DISK = "root"
SEED = 20_241_101
_NAMESPACE = UUID("6f0c3a52-3f0b-4a2e-9d0e-6b766d6f7665")
HEARD_WITHIN = 90.0


@dataclass(frozen=True)
class LedgerVm:
    """A ledger guest as a VM. Sizes in bytes: `data` is what each disk holds at first, the rest is a hole.

    Below 128 MiB of `memory` besides the RAM ledger (`ram_mib`) the guest's kernel runs out of memory.
    """

    name: str = "demo"
    number: int = 1
    memory: int = 512 * MIB
    disk: int = GIB
    data: int = 512 * MIB
    mode: Mode = Mode.RANDOM4K
    rate: int = 0
    ram_mib: int = 64
    ram_rate: int = 1000
    vcpus: int = 1
    datastore: str = LOCAL
    swap: str = NO_SWAP
    disks: int = 1
    format: DiskFormat = DiskFormat.RAW
    provisioning: Provisioning = Provisioning.THIN
    options: GuestOptions = field(init=False)

    def __post_init__(self) -> None:
        options = GuestOptions(
            vm=self.number, ip=f"{addresses.guest(self.number)}/{addresses.PREFIX}", mode=self.mode, rate=self.rate,
            recorder=f"{addresses.world_guests()}:{preparation.RECORDER_PORT}", ram_mib=self.ram_mib,
            ram_rate=self.ram_rate,
        )  # fmt: skip
        object.__setattr__(self, "options", options)

    @property
    def uuid(self) -> UUID:
        """The same for the same name in every lab."""
        return uuid5(_NAMESPACE, self.name)

    @property
    def disk_names(self) -> tuple[str, ...]:
        """In the order in which the guest numbers them."""
        return (DISK, *(f"data{number}" for number in range(1, self.disks)))

    @property
    def prefill(self) -> Prefill:
        return self.prefill_of(0)

    def prefill_of(self, number: int) -> Prefill:
        """What disk `number` holds at first: not what another does."""
        return Prefill(self.data, SEED + number)

    def definition(self, image: GuestImage) -> VmDefinition:
        """The VM as the manager takes it."""
        nic = NicDefinition(name="eth0", bridge=addresses.GUEST_BRIDGE, mac=addresses.guest_mac(self.number))
        boot = BootDefinition(
            kernel=str(image.kernel.resolve()), initrd=str(image.initrd.resolve()),
            command_line=self.options.command_line(),
        )  # fmt: skip
        on_device = self.datastore in (BLOCK, BLOCK_SHARED)
        disks = tuple(
            DiskDefinition(
                name=name, datastore=self.datastore, size=self.disk, format=self.format,
                provisioning=Provisioning.THICK if on_device else self.provisioning,
            )
            for name in self.disk_names
        )  # fmt: skip
        return VmDefinition(
            name=self.name, uuid=self.uuid, memory=self.memory, vcpus=self.vcpus, disks=disks, nics=(nic,), boot=boot,
            swap=self.swap,
        )  # fmt: skip

    def disk_file(self, host: LabHost) -> Path:
        """The first disk on that host, as seen from outside: its file, or the device that it lies on."""
        folder = host.datastore_called(self.datastore) / str(self.uuid)
        if self.datastore in (BLOCK, BLOCK_SHARED):
            return Path(json.loads((folder / f"{DISK}{SUFFIX}").read_text())["device"])
        return folder / f"{DISK}.{self.format}"


async def define(lab: Lab, vm: LedgerVm, image: GuestImage, host: str) -> None:
    """Define the VM on `host` and fill its disks; it is off.

    :raise KvmoveError: the manager refused, or a disk could not be filled.
    """
    status = await lab.manager.define_vm(host, vm.definition(image))
    for number, disk in enumerate(status.definition.disks):
        place = await find(lab, host, vm.uuid, disk)
        await asyncio.to_thread(place.fill, vm.prefill_of(number), image.prefill_tool)


def fill(file: Path, vm: LedgerVm, image: GuestImage) -> None:
    """Put the disk's first content into `file`, down to the storage: no write-back is to disturb a measurement.

    :raise CheckFailed: the disk is full.
    """
    if file.is_block_device():
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / file.name
            prefill(made, vm.disk, vm.prefill, image.prefill_tool)
            with made.open("rb") as source, file.open("r+b") as device:
                shutil.copyfileobj(source, device, MIB)
    else:
        prefill(file, vm.disk, vm.prefill, image.prefill_tool)
    with file.open("rb") as content:
        os.fsync(content.fileno())


async def start(lab: Lab, vm: LedgerVm) -> None:
    """Start the VM and wait until the recorder hears of its writes.

    :raise LabFailed: it is not heard within a minute and a half.
    """
    await lab.manager.start_vm(str(vm.uuid))
    await wait_until_heard(lab, vm)


async def wait_until_heard(lab: Lab, vm: LedgerVm) -> None:
    """Wait until the recorder hears of writes of the guest.

    :raise LabFailed: it does not within a minute and a half.
    """
    deadline = time.monotonic() + HEARD_WITHIN
    while not await asyncio.to_thread(heard, lab, vm):
        if time.monotonic() > deadline:
            raise LabFailed(f"guest {vm.name} is not heard of", hint="see its serial.log and the recorder's log")
        await asyncio.sleep(0.2)


def heard(lab: Lab, vm: LedgerVm) -> bool:
    """Whether the recorder has a report of a write of the guest."""
    try:
        log = RecorderLog(preparation.recorder_folder(lab.folders))
    except NotFound:
        return False
    return any(log.last_acknowledged(vm.number).values())
