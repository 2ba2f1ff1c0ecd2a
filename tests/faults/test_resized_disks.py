"""A disk is resized while it moves, or was before: what the VM's definition says counts. What the guest could lose by
it ends the move; a file that grew unseen does not."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from kvmove.errors import CheckFailed
from kvmove.lab import ledger_vm
from kvmove.lab.ledger_vm import DISK, LedgerVm
from kvmove.lab.moving import follow
from kvmove.lab.spec import LOCAL, SECOND, SHARED
from kvmove.model.task import TaskState
from kvmove.units import MIB
from tests.support.audience import Quiet
from tests.support.eventually import eventually
from tests.support.moving_guest import World, world
from tests.support.storage_trouble import nothing_is_left

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.full]

VM = LedgerVm(name="sized", memory=160 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=16, rate=300)
object.__setattr__(VM, "options", replace(VM.options, span=128 * MIB))  # the guest leaves the disk's second half alone

WAYS = pytest.mark.parametrize(("to", "point"), [("h2", "source-mirroring"), (None, "storage-mirroring")])


def image(there: World, form: str = "raw") -> Path:
    return there.lab.host("h1").datastore / str(VM.uuid) / f"{DISK}.{form}"


def where(to: str | None) -> str:
    return LOCAL if to is not None else SHARED


@WAYS
async def test_a_file_that_is_cut_off_ends_the_move(to: str | None, point: str) -> None:
    async with world(VM, "sft") as there:
        file = image(there)
        task = await there.fails(there.request(to, datastore=where(to)), point, lambda: os.truncate(file, 200 * MIB))
        assert f"{file.name}: the file was cut off: it has {200 * MIB} bytes, and had {256 * MIB}" in str(task.problem)
        await nothing_is_left(there, there.lab.host("h2"))
        await there.runs_on(there.lab.host("h1"))
        os.truncate(file, 256 * MIB)
        await there.judge("h1")


async def test_an_image_whose_file_is_cut_off_ends_the_move() -> None:
    """QEMU itself reads zeroes behind the end of the file."""
    async with world(VM, "sft") as there:
        await there.move(None, datastore=SECOND, format="qcow2")
        await there.move(None, datastore=LOCAL)
        file = image(there, "qcow2")
        size = file.stat().st_size
        task = await there.fails(there.request("h2"), "source-mirroring", lambda: os.truncate(file, size - size // 8))
        assert f"{file.name}: the file was cut off" in str(task.problem)
        await nothing_is_left(there, there.lab.host("h2"))


@WAYS
async def test_a_file_that_grows_moves_as_large_as_its_guest_sees_it(to: str | None, point: str) -> None:
    async with world(VM, "sft") as there:
        source, manager = there.lab.host("h1"), there.lab.manager
        source.arm(point, "hold")
        task = await manager.start_move(there.request(to, datastore=where(to)))
        await eventually(lambda: source.is_held(point))
        os.truncate(image(there), 320 * MIB)
        source.disarm(point)
        assert (await follow(there.lab, task, Quiet())).state is TaskState.SUCCEEDED
        host = there.lab.host(to or "h1")
        await there.runs_on(host)
        moved = host.datastore_called(where(to)) / str(VM.uuid) / f"{DISK}.raw"
        assert moved.stat().st_size == VM.disk
        await there.judge(host.name, moved)


@WAYS
async def test_a_disk_of_another_size_than_its_definition_is_refused(to: str | None, point: str) -> None:
    """A VM that was started since has the larger disk: half of it would be left behind."""
    async with world(VM, "sft") as there:
        await there.lab.manager.kill_vm(VM.name)
        os.truncate(image(there), 320 * MIB)
        await ledger_vm.start(there.lab, VM)
        with pytest.raises(CheckFailed, match=f"disk {DISK} has {320 * MIB} bytes, and {256 * MIB}"):
            await there.move(to, datastore=where(to))
        await nothing_is_left(there, there.lab.host("h2"))
        await there.runs_on(there.lab.host("h1"))
        await there.judge("h1")
