"""Disks change their image while the guest writes to them: raw and qcow2, thin and thick, file and block device."""

import pytest

from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.spec import BLOCK, LOCAL, SECOND, SHARED
from kvmove.model.vm import DiskFormat, Provisioning
from kvmove.units import MIB
from tests.support.moving_guest import World, world

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

VM = LedgerVm(name="former", memory=160 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=16, rate=300)

RAW, QCOW2 = DiskFormat.RAW, DiskFormat.QCOW2


async def becomes(there: World, form: DiskFormat, provisioning: Provisioning) -> None:
    """The disk is such an image now, for everybody who asks."""
    vm = await there.lab.manager.vm(VM.name)
    assert [(disk.format, disk.provisioning) for disk in vm.definition.disks] == [(form, provisioning)]


@pytest.mark.full
async def test_a_disk_becomes_qcow2_and_raw_again_from_host_to_host() -> None:
    async with world(VM, "fmt") as there:
        for host, form in (("h2", QCOW2), ("h1", QCOW2), ("h2", RAW)):
            moved = await there.move(host, format=form, verify=True, datastore=LOCAL)
            assert moved.digests_equal
            await there.runs_on(there.lab.host(host))
            await becomes(there, form, Provisioning.THIN)
        await there.judge("h2")


@pytest.mark.full
async def test_a_disk_becomes_qcow2_and_raw_again_on_one_host() -> None:
    async with world(VM, "fmt", hosts=1) as there:
        host = there.lab.host("h1")
        for datastore, form in ((SECOND, QCOW2), (SHARED, QCOW2), (LOCAL, RAW)):
            await there.move(None, datastore=datastore, format=form)
            await there.runs_on(host)
            await becomes(there, form, Provisioning.THIN)
        await there.judge("h1")


@pytest.mark.full
async def test_a_qcow2_disk_goes_over_the_storage_network_and_stays_in_a_host_move() -> None:
    async with world(VM, "fmt") as there:
        moved = await there.move("h2", datastore=SHARED, format=QCOW2, verify=True)
        assert moved.task.plan is not None and moved.task.plan.over_storage
        assert moved.digests_equal
        await there.move("h1")
        await there.runs_on(there.lab.host("h1"))
        await there.move(None, datastore=LOCAL, format=RAW)
        await there.runs_on(there.lab.host("h1"))
        await there.judge("h1")


@pytest.mark.full
async def test_thick_disks_and_block_devices() -> None:
    async with world(VM, "fmt", block=2) as there:
        for host, datastore, form, provisioning in (
            ("h2", LOCAL, RAW, "thick"),
            (None, BLOCK, RAW, "thick"),
            ("h1", BLOCK, RAW, "thick"),
            (None, SECOND, QCOW2, "thick"),
            ("h2", BLOCK, None, None),
            ("h1", LOCAL, RAW, "thin"),
        ):
            wanted = {"format": form, "provisioning": provisioning, "datastore": datastore}
            moved = await there.move(host, verify=host is not None, **wanted)
            assert host is None or moved.digests_equal
            await there.runs_on(there.lab.host(host or moved.task.source))
            await becomes(there, form or RAW, Provisioning(provisioning or "thick"))
        await there.judge("h1")
