"""A disk that rests on other images moves with what it rests on, or becomes one image, under its guest's writes."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kvmove.disk import qcow2
from kvmove.disk.base_images import FOLDER
from kvmove.disk.qcow2 import Layer
from kvmove.errors import CheckFailed, KvmoveError
from kvmove.lab import ledger_vm
from kvmove.lab.ledger_vm import DISK, LedgerVm
from kvmove.lab.moving import WatchedMove
from kvmove.lab.spec import LOCAL, SECOND, SHARED
from kvmove.model.vm import DiskFormat
from kvmove.units import MIB
from tests.support.eventually import eventually
from tests.support.moving_guest import World, world

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

VM = LedgerVm(name="chained", memory=160 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=16, rate=300)


def top(there: World, host: str, datastore: str) -> Path:
    """The VM's own image."""
    local = there.lab.host(host).datastore_called(LOCAL)
    roots = {LOCAL: local, SECOND: local / SECOND, SHARED: there.lab.host(host).datastore_called(SHARED)}
    return roots[datastore] / str(VM.uuid) / f"{DISK}.qcow2"


def chain(there: World, host: str, datastore: str) -> list[Path]:
    """What the VM's image rests on, as the images themselves say."""
    image = top(there, host, datastore)
    found: list[Path] = []
    while True:
        told = subprocess.run(
            ["qemu-img", "info", "-U", "--output=json", str(image)], check=True, capture_output=True
        ).stdout
        name = json.loads(told).get("backing-filename")
        if name is None:
            return found
        image = Path(os.path.normpath(image.parent / name))
        found.append(image)


def images(there: World, host: str, datastore: str) -> list[Path]:
    """What the datastore keeps for disks to rest on."""
    folder = top(there, host, datastore).parents[1] / FOLDER
    return sorted(folder.iterdir()) if folder.exists() else []


def beside_memory(moved: WatchedMove) -> int:
    """Bytes that crossed the migration NICs, but for the memory."""
    assert moved.task.report is not None
    return sum(moved.sent.values()) - int(moved.task.report.memory_bytes * 1.05)


async def rest(there: World, name: str, below: Path | None = None) -> Path:
    """Off: the VM's image becomes the image `name`, resting on `below`, and a new one without data rests on it."""
    await there.lab.manager.kill_vm(VM.name)
    image = top(there, "h1", SECOND)
    base = image.parents[1] / name
    await asyncio.to_thread(image.rename, base)
    if below is not None:
        await asyncio.to_thread(qcow2.rebase_unsafe, base, Layer(below, DiskFormat.QCOW2))
    await asyncio.to_thread(qcow2.create, image, VM.disk, backing=Layer(base, DiskFormat.QCOW2))
    await ledger_vm.start(there.lab, VM)
    await eventually(lambda: image.stat().st_blocks * 512 > 2 * MIB)  # the guest has written to it
    return base


@asynccontextmanager
async def chained() -> AsyncIterator[World]:
    """The guest runs on h1, its disk in SECOND: it rests on an image that the guest wrote to, and that on another."""
    async with world(VM, "chn") as there:
        await there.move(None, datastore=SECOND, format="qcow2")
        golden = await rest(there, "golden.qcow2")
        await rest(there, "middle.qcow2", golden)
        yield there


@pytest.mark.full
async def test_a_chain_moves_with_what_it_rests_on_and_nothing_is_copied_twice() -> None:
    async with chained() as there:
        moved = await there.move("h2", datastore=LOCAL, verify=True)
        assert moved.digests_equal
        await there.runs_on(there.lab.host("h2"))
        brought = images(there, "h2", LOCAL)
        assert len(brought) == 2
        assert sorted(chain(there, "h2", LOCAL)) == brought
        assert beside_memory(moved) > 96 * MIB

        moved = await there.move("h1", datastore=SHARED, verify=True)
        assert moved.digests_equal
        assert beside_memory(moved) < 8 * MIB, "the disk went over the storage network"
        assert len(images(there, "h1", SHARED)) == 2

        inodes = {path.name: path.stat().st_ino for path in brought}
        moved = await there.move("h2", datastore=LOCAL, verify=True)
        assert moved.digests_equal
        assert {path.name: path.stat().st_ino for path in images(there, "h2", LOCAL)} == inodes
        assert beside_memory(moved) < 48 * MIB, "what was there was not sent again"
        assert top(there, "h2", LOCAL).stat().st_blocks * 512 < 96 * MIB, "the top holds its own data alone"
        await there.runs_on(there.lab.host("h2"))


@pytest.mark.full
async def test_a_chain_moves_from_datastore_to_datastore_and_is_flattened_on_request() -> None:
    async with chained() as there:
        await there.move(None, datastore=LOCAL)
        assert len(chain(there, "h1", LOCAL)) == 2
        await there.runs_on(there.lab.host("h1"))
        moved = await there.move("h2", flatten=True, verify=True)
        assert moved.digests_equal
        assert chain(there, "h2", LOCAL) == []
        await there.runs_on(there.lab.host("h2"))
        moved = await there.move("h1", format="raw", verify=True)
        assert moved.digests_equal
        await there.judge("h1")


@pytest.mark.full
async def test_a_chain_becomes_one_raw_image_and_its_ledger_is_whole() -> None:
    async with chained() as there:
        moved = await there.move("h2", datastore=LOCAL, format="raw", verify=True)
        assert moved.digests_equal
        await there.judge("h2")


@pytest.mark.full
async def test_a_failed_move_of_a_chain_leaves_no_half_image() -> None:
    async with chained() as there:
        request = there.request("h2", datastore=LOCAL)
        await there.fails(request, "source-mirroring", there.lab.host("h2").kill_agent)
        await there.runs_on(there.lab.host("h1"))
        await eventually(lambda: not top(there, "h2", LOCAL).parent.exists())
        assert all(not path.name.startswith(".") for path in images(there, "h2", LOCAL))
        await there.move("h2", datastore=LOCAL, verify=True)


async def test_internal_snapshots_and_thick_chains_are_refused() -> None:
    async with chained() as there:
        with pytest.raises(CheckFailed, match="cannot be thick"):
            await there.lab.manager.check_move(there.request("h2", datastore=LOCAL, provisioning="thick"))
        await there.lab.manager.kill_vm(VM.name)
        snapshot = await asyncio.create_subprocess_exec(
            "qemu-img", "snapshot", "-c", "before", str(top(there, "h1", SECOND))
        )
        assert await snapshot.wait() == 0
        with pytest.raises(CheckFailed, match="internal snapshots before") as caught:
            await there.lab.manager.start_move(there.request("h2", datastore=LOCAL))
        assert "qemu-img snapshot" in caught.value.hint
        await ledger_vm.start(there.lab, VM)


@pytest.mark.full
async def test_an_image_that_is_no_image_is_refused() -> None:
    async with chained() as there:
        await there.lab.manager.kill_vm(VM.name)
        top(there, "h1", SECOND).write_bytes(b"nothing")
        with pytest.raises(KvmoveError, match="disk root"):
            await there.lab.manager.start_move(there.request("h2", datastore=LOCAL))
