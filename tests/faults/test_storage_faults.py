"""The storage below a move fails while the guest writes: no space, a sector that cannot be read, a datastore that is
gone. The move ends with the disk and the reason; the guest goes on where it is, whole; nothing is left of the move."""

import json
import subprocess
from pathlib import Path

import pytest

from kvmove.lab import ledger_vm, preparation
from kvmove.lab.guest.recorder_log import RecorderLog
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import DISK, LedgerVm
from kvmove.lab.moving import follow
from kvmove.lab.spec import LOCAL, SECOND, SHARED
from kvmove.model.task import TaskState
from kvmove.units import MIB
from tests.support.audience import Quiet
from tests.support.eventually import eventually
from tests.support.moving_guest import World, world
from tests.support.storage_trouble import LocalStore, bad_sector, fill, nothing_is_left

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

VM = LedgerVm(name="victim", memory=160 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=16, rate=300)
full = pytest.mark.full

RAW_OR_QCOW2 = pytest.mark.parametrize("form", ["raw", pytest.param("qcow2", marks=full)])


def image(there: World, datastore: str, form: str = "raw") -> Path:
    """The VM's image on h1."""
    host = there.lab.host("h1")
    roots = {LOCAL: host.datastore, SECOND: host.datastore / SECOND, SHARED: host.datastore_called(SHARED)}
    return roots[datastore] / str(VM.uuid) / f"{DISK}.{form}"


async def whole_at_the_source(there: World, datastore: str, *, moves_on: str = "", form: str = "raw") -> None:
    """The guest runs on h1, on its old disk; it can move on; no write that it was told of is lost."""
    host = there.lab.host("h1")
    await there.runs_on(host)
    vm = await there.lab.manager.vm(str(VM.uuid))
    assert [disk.datastore for disk in vm.definition.disks] == [datastore]
    assert image(there, datastore, form).exists()
    if moves_on:
        moved = await there.move(moves_on, datastore=LOCAL, format="raw", verify=True)
        assert moved.digests_equal
        await there.judge(moves_on)
    elif form == "raw":
        await there.judge("h1", image(there, datastore))
    else:
        await there.move(None, datastore=LOCAL if datastore != LOCAL else SECOND, format="raw")
        await there.judge("h1", image(there, LOCAL if datastore != LOCAL else SECOND))


# No space.


@RAW_OR_QCOW2
async def test_a_destination_that_fills_up_ends_the_move(form: str) -> None:
    async with world(VM, "sft") as there:
        destination = there.lab.host("h2")
        filler = destination.datastore / "filler"
        request = there.request("h2", format=form)
        task = await there.fails(request, "source-mirroring", lambda: fill(filler))
        assert "No space left" in str(task.problem)
        assert f"{DISK}.{form}" in str(task.problem)
        await nothing_is_left(there, destination)
        filler.unlink()
        await whole_at_the_source(there, LOCAL, moves_on="h2")


@full
async def test_a_datastore_that_fills_up_ends_a_storage_move_into_an_image() -> None:
    async with world(VM, "sft", hosts=1) as there:
        host = there.lab.host("h1")
        await there.move(None, datastore=SHARED)
        filler = host.datastore / "filler"
        request = there.request(None, datastore=LOCAL, format="qcow2")
        task = await there.fails(request, "storage-mirroring", lambda: fill(filler))
        assert "No space left" in str(task.problem)
        filler.unlink()
        await nothing_is_left(there, host)
        assert not image(there, LOCAL, "qcow2").parent.exists()
        await whole_at_the_source(there, SHARED)


# A sector that cannot be read.


def place_in_file(file: Path, form: str, offset: int) -> int:
    """Where in its file an image keeps what the guest reads at `offset`."""
    if form == "raw":
        return offset
    told = subprocess.run(["qemu-img", "map", "-U", "--output=json", str(file)], check=True, capture_output=True).stdout
    runs = json.loads(told)
    return next(
        int(run["offset"]) + offset - int(run["start"])
        for run in runs
        if run["start"] <= offset < run["start"] + run["length"]
    )


@pytest.mark.full
@pytest.mark.parametrize("form", ["raw", pytest.param("qcow2", marks=full)])
@pytest.mark.parametrize("to", ["h2", pytest.param(None, marks=full)])
async def test_a_sector_that_cannot_be_read_ends_the_move(form: str, to: str | None) -> None:
    """It is never taken for zeroes, nor for what it held before."""
    async with world(VM, "sft") as there:
        source = there.lab.host("h1")
        if form == "qcow2":
            await there.move(None, datastore=SECOND, format=form)
        store = SECOND if form == "qcow2" else LOCAL
        file = image(there, store, form)
        await there.lab.manager.kill_vm(VM.name)
        bad = place_in_file(file, form, 48 * MIB)
        async with bad_sector(there, source, file, bad) as kept:
            await ledger_vm.start(there.lab, VM)
            request = there.request(to, datastore=SHARED if to is None else LOCAL, format=form)
            task = await there.fails(request, "storage-mirroring" if to is None else "source-mirroring", lambda: None)
            said = str(task.problem)
            assert "Input/output error" in said
            assert file.name in said
            assert f" at {48 * MIB}" in said
            await nothing_is_left(there, there.lab.host("h2"))
            await there.runs_on(source)
            if form == "raw":
                await there.judge("h1", kept)
            else:
                await there.lab.manager.kill_vm(VM.name)


# A datastore that is gone.


@pytest.mark.full
@RAW_OR_QCOW2
async def test_a_destination_whose_datastore_is_unmounted_ends_the_move(form: str) -> None:
    async with world(VM, "sft") as there:
        destination = there.lab.host("h2")
        store = LocalStore(there, destination)
        request = there.request("h2", format=form)
        task = await there.fails(request, "source-mirroring", store.unmount)
        assert LOCAL in str(task.problem)
        await there.runs_on(there.lab.host("h1"))
        await store.mount()
        await nothing_is_left(there, destination)
        await whole_at_the_source(there, LOCAL, moves_on="h2")


@full
@RAW_OR_QCOW2
async def test_a_destination_whose_storage_breaks_down_ends_the_move(form: str) -> None:
    async with world(VM, "sft") as there:
        destination = there.lab.host("h2")
        store = LocalStore(there, destination)
        request = there.request("h2", format=form)
        task = await there.fails(request, "source-mirroring", store.break_down)
        assert "Input/output error" in str(task.problem)
        await there.runs_on(there.lab.host("h1"))
        await store.repair()
        await nothing_is_left(there, destination)
        await whole_at_the_source(there, LOCAL, moves_on="h2")


@full
@pytest.mark.parametrize("form", ["raw", "qcow2"])
@pytest.mark.parametrize("how", ["unmount", "break_down"])
async def test_a_storage_move_whose_new_datastore_is_gone_is_undone(form: str, how: str) -> None:
    async with world(VM, "sft", hosts=1) as there:
        host = there.lab.host("h1")
        await there.move(None, datastore=SHARED)
        store = LocalStore(there, host)
        request = there.request(None, datastore=LOCAL, format=form)
        await there.fails(request, "storage-mirroring", getattr(store, how))
        await there.runs_on(host)
        await {"unmount": store.mount, "break_down": store.repair}[how]()
        await eventually(lambda: not image(there, LOCAL).parent.exists())
        await nothing_is_left(there, host)
        await there.move(None, datastore=LOCAL, format="raw")
        await whole_at_the_source(there, LOCAL)


@full
async def test_a_restarted_agent_undoes_a_storage_move_though_the_datastore_is_gone() -> None:
    """The guest, which stood still for the switch, goes on at once; what is in the datastore goes once that is back."""
    async with world(VM, "sft", hosts=1) as there:
        host, manager = there.lab.host("h1"), there.lab.manager
        await there.move(None, datastore=SHARED)
        store = LocalStore(there, host)
        task = await there.fails(there.request(None, datastore=LOCAL), "storage-pivoted", lambda: die(store, host))
        assert "agent was restarted" in str(task.problem)
        await there.runs_on(host)
        vm = await manager.vm(str(VM.uuid))
        assert vm.move_id is None
        await store.mount()
        await eventually(lambda: not image(there, LOCAL).parent.exists())
        await there.move(None, datastore=LOCAL)
        await there.runs_on(host)
        await there.judge("h1", image(there, LOCAL))


def die(store: LocalStore, host: LabHost) -> None:
    """The datastore is gone, and the agent."""
    store.unmount()
    host.kill_agent()


@full
async def test_a_destination_whose_datastore_goes_after_the_last_sync_has_the_vm_all_the_same() -> None:
    """The guest runs there at once; the move ends when the datastore is back."""
    async with world(VM, "sft") as there:
        destination, manager = there.lab.host("h2"), there.lab.manager
        store = LocalStore(there, destination)
        destination.arm("destination-committed", "hold")
        task = await manager.start_move(there.request("h2"))
        await eventually(lambda: destination.is_held("destination-committed"))
        store.unmount()
        destination.disarm("destination-committed")
        log = RecorderLog(preparation.recorder_folder(there.lab.folders))
        before = writes(log)
        await eventually(lambda: writes(log) > before)
        assert not (await manager.task(task.id)).ended_state
        await store.mount()
        assert (await follow(there.lab, task, Quiet())).state is TaskState.SUCCEEDED
        await there.runs_on(destination)
        await there.judge("h2")


def writes(log: RecorderLog) -> int:
    """How many the guest has been told of."""
    log.refresh()
    health = log.health(VM.number)
    assert health is not None
    return health.writes
