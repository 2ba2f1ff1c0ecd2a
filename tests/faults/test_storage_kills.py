"""Agents and storage daemons die while images of QEMU's are copied: a move between hosts outlives its agents, else the
guest is whole at the source; no daemon outlives its move, and nothing half-made is left."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from kvmove.disk import qcow2
from kvmove.disk.qcow2 import Layer
from kvmove.lab import ledger_vm
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import DISK, LedgerVm
from kvmove.lab.moving import follow
from kvmove.lab.spec import LOCAL, SECOND, SHARED
from kvmove.model.vm import DiskFormat
from kvmove.units import MIB
from tests.support.audience import Quiet
from tests.support.eventually import eventually
from tests.support.moving_guest import World, world
from tests.support.storage_trouble import daemons, nothing_is_left

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

VM = LedgerVm(name="imaged", memory=160 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=16, rate=300)

full = pytest.mark.full


def image(host: LabHost, datastore: str) -> Path:
    roots = {LOCAL: host.datastore, SECOND: host.datastore / SECOND, SHARED: host.datastore_called(SHARED)}
    return roots[datastore] / str(VM.uuid) / f"{DISK}.qcow2"


async def becomes_an_image(there: World, *, chain: bool) -> None:
    """The disk is a qcow2 image in h1's SECOND; of a `chain` it is a new one, which rests on what the disk was."""
    await there.move(None, datastore=SECOND, format="qcow2")
    if chain:
        await there.lab.manager.kill_vm(VM.name)
        top = image(there.lab.host("h1"), SECOND)
        base = top.parents[1] / "golden.qcow2"
        await asyncio.to_thread(top.rename, base)
        await asyncio.to_thread(qcow2.create, top, VM.disk, backing=Layer(base, DiskFormat.QCOW2))
        await ledger_vm.start(there.lab, VM)


async def whole_at_the_source(there: World) -> None:
    """The guest runs on its old disk and moves away from it; no write is lost."""
    source, destination = there.lab.hosts
    await nothing_is_left(there, destination)
    await there.runs_on(source)
    assert image(source, SECOND).exists()
    moved = await there.move("h2", datastore=LOCAL, format="raw", verify=True)
    assert moved.digests_equal
    await nothing_is_left(there, source)
    await there.judge("h2")


def kill_daemon(host: LabHost) -> None:
    """The one that writes the new image."""
    [pid] = daemons(host)
    os.kill(pid, signal.SIGKILL)


CHAIN = pytest.mark.parametrize("chain", [pytest.param(False, id="image"), pytest.param(True, id="chain")])


@full
@CHAIN
async def test_a_move_of_an_image_whose_daemon_dies_is_undone(chain: bool) -> None:
    async with world(VM, "sft") as there:
        await becomes_an_image(there, chain=chain)
        request = there.request("h2", datastore=LOCAL)
        task = await there.fails(request, "source-mirroring", lambda: kill_daemon(there.lab.host("h2")))
        assert f"{DISK}.qcow2" in str(task.problem)
        await whole_at_the_source(there)


@full
@CHAIN
@pytest.mark.parametrize("host", ["h1", "h2"])
async def test_a_move_of_an_image_outlives_an_agent(chain: bool, host: str) -> None:
    async with world(VM, "sft") as there:
        await becomes_an_image(there, chain=chain)
        source, destination = there.lab.hosts
        source.arm("source-mirroring", "hold")
        started = await there.lab.manager.start_move(there.request("h2", datastore=LOCAL))
        await eventually(lambda: source.is_held("source-mirroring") and is_recorded(there, source))
        there.lab.host(host).kill_agent()
        source.disarm("source-mirroring")
        await follow(there.lab, started, Quiet())
        report = (await there.lab.manager.task(started.id)).report
        assert report is not None
        assert any("was restarted; the copy goes on" in change.what for change in report.changes), report.changes
        await nothing_is_left(there, source)
        await there.runs_on(destination)
        moved = await there.move("h1", datastore=LOCAL, format="raw", verify=True)
        assert moved.digests_equal
        await nothing_is_left(there, destination)
        await there.judge("h1")


def is_recorded(there: World, host: LabHost) -> bool:
    """Whether the next agent of the host would know how far the copy is."""
    return any(there.lab.folders.host(host.name).rglob("*.regions"))


@full
@CHAIN
@pytest.mark.parametrize("kill", ["daemon", "agent"])
async def test_a_storage_move_of_an_image_is_undone(chain: bool, kill: str) -> None:
    async with world(VM, "sft") as there:
        await becomes_an_image(there, chain=chain)
        source = there.lab.host("h1")
        fault = (lambda: kill_daemon(source)) if kill == "daemon" else source.kill_agent
        task = await there.fails(there.request(None, datastore=LOCAL), "storage-mirroring", fault)
        assert (f"{DISK}.qcow2" if kill == "daemon" else "agent was restarted") in str(task.problem)
        assert not image(source, LOCAL).parent.exists()
        await whole_at_the_source(there)
