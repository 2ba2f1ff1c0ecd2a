"""A lab's block devices: each host has its own, all share some, and none outlives the lab."""

import os
import signal
from uuid import uuid4

import pytest

from kvmove.errors import CheckFailed
from kvmove.lab import leftovers
from kvmove.lab.commands import run
from kvmove.lab.folders import LabFolders
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.spec import BLOCK, BLOCK_SHARED, LabSpec
from kvmove.model.host import HostDatastore
from kvmove.model.vm import DiskDefinition, Provisioning, VmDefinition
from kvmove.units import MIB
from tests.support.eventually import eventually
from tests.support.labs import SMALL, lab_name, tidy_lab
from tests.support.moving_guest import world

pytestmark = pytest.mark.lab


def spec(purpose: str, **changes: object) -> LabSpec:
    given = {"name": lab_name(purpose), "datastore": SMALL, "block": 2, "block_size": 64 * MIB, **changes}
    return LabSpec.model_validate(given)


def vm(name: str, datastore: str, provisioning: Provisioning = Provisioning.THICK) -> VmDefinition:
    disk = DiskDefinition(name="root", datastore=datastore, size=48 * MIB, provisioning=provisioning)
    return VmDefinition(name=name, uuid=uuid4(), memory=64 * MIB, disks=(disk,))


def loops_of(folders: LabFolders) -> list[str]:
    return [found for found in leftovers.find(folders) if found.startswith("loop device")]


async def stores(lab: Lab) -> dict[tuple[str, str], HostDatastore]:
    return {(store.host, store.name): store for store in await lab.manager.datastores()}


async def test_disks_lie_on_devices_that_the_hosts_have_alone_or_together() -> None:
    async with tidy_lab(spec("block", shared=True)) as lab:
        found = await stores(lab)
        for host in ("h1", "h2"):
            assert found[host, BLOCK].devices == found[host, BLOCK_SHARED].devices == (64 * MIB, 64 * MIB)
            assert found[host, "local"].devices is None
        assert found["h1", BLOCK].id != found["h2", BLOCK].id
        assert found["h1", BLOCK_SHARED].id == found["h2", BLOCK_SHARED].id
        with pytest.raises(CheckFailed, match="block device"):
            await lab.manager.define_vm("h1", vm("thin", BLOCK, Provisioning.THIN))
        own, one, two, three = (vm(f"vm{n}", BLOCK if n == 0 else BLOCK_SHARED) for n in range(4))
        for host, definition in (("h1", own), ("h1", one), ("h2", two)):
            await lab.manager.define_vm(host, definition)
        with pytest.raises(CheckFailed, match="free are: none"):
            await lab.manager.define_vm("h2", three)
        await lab.manager.start_vm(str(two.uuid))
        found = await stores(lab)
        assert [found["h1", name].devices for name in (BLOCK, BLOCK_SHARED)] == [(64 * MIB,), ()]
        await lab.manager.delete_vm(str(one.uuid))
        assert (await stores(lab))["h2", BLOCK_SHARED].devices == (64 * MIB,)
        await lab.power_off("h1")
        await lab.power_on("h1")
        await lab.ready()
        assert (await stores(lab))["h1", BLOCK].devices == (64 * MIB,)


async def test_a_supervisor_that_is_killed_takes_its_devices_along() -> None:
    wanted = spec("blockkill", bare=True)
    folders = LabFolders(wanted.name)
    lab = await Lab.up(wanted)
    try:
        assert len(loops_of(folders)) >= 4
        os.kill(lab.supervisor, signal.SIGKILL)
        await eventually(lambda: not loops_of(folders))
    finally:
        await Lab.down(wanted.name)
    assert leftovers.find(folders) == []


async def test_a_device_that_nobody_holds_is_found_and_swept() -> None:
    folders = LabFolders(lab_name("blockleft"))
    image = folders.host("h1") / "block-0.img"
    image.parent.mkdir(parents=True)
    try:
        with image.open("xb") as file:
            file.truncate(MIB)
        run(["losetup", "--find", str(image)])
        assert len(loops_of(folders)) == 1
    finally:
        await Lab.down(folders.name)
    assert leftovers.find(folders) == []


@pytest.mark.full
async def test_the_ledger_guest_lives_on_a_device_and_loses_no_write() -> None:
    guest = LedgerVm(
        name="onblock", memory=160 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=16, rate=300, datastore=BLOCK
    )  # fmt: skip
    async with world(guest, "lives", block=1) as there:
        assert guest.disk_file(there.lab.host("h1")).is_block_device()
        await there.judge("h1")
