"""Checks on a real lab of what VMs, disks and datastores are: each thing is made so, found, and mostly mended again.

One lab for all; each test has VMs of its own, and leaves the hosts as it found them.
"""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from kvmove.lab import processes
from kvmove.lab.lab import Lab
from kvmove.lab.spec import BLOCK, LOCAL, SECOND, SHARED, LabSpec
from kvmove.model.move import MoveRequest
from kvmove.model.placement import MaintenanceRequest
from kvmove.model.task import Task
from kvmove.model.vm import DiskFormat, NicDefinition, VmDefinition
from kvmove.units import GIB, MIB
from tests.support.checked_vms import codes, define, shell
from tests.support.comes_true import comes_true
from tests.support.eventually import eventually
from tests.support.labs import SMALL, lab_name, tidy_lab

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

MANAGER = ("-m", "kvmove", "manager")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab() -> AsyncIterator[Lab]:
    spec = LabSpec(
        name=lab_name("findvm"), nics=(0,), datastore=SMALL, shared=True, block=1, block_size=32 * MIB,
    )  # fmt: skip
    async with tidy_lab(spec) as made:
        yield made


def image(lab: Lab, vm: VmDefinition) -> str:
    """The image of its disk, as h1 sees it."""
    (disk,) = vm.disks
    return f"{lab.folders.datastore(disk.datastore)}/{vm.uuid}/{disk.name}.{disk.format}"


async def rest_on(lab: Lab, vm: VmDefinition, base: str) -> None:
    """The VM's image becomes `base`, and a new one rests on that."""
    top = image(lab, vm)
    await shell(lab.host("h1"), f"mv {top} {base} && qemu-img create -q -f qcow2 -F qcow2 -b {base} {top}")


async def test_what_a_disk_cannot_become_is_said(lab: Lab) -> None:
    await define(lab, "plain")
    await define(lab, "large", {"size": 64 * MIB})
    await define(lab, "shared", {"datastore": SHARED})
    assert await codes(lab, "plain") == []
    assert await codes(lab, "large", datastore=BLOCK) == ["device-missing"]
    assert await codes(lab, "plain", datastore=BLOCK, format="qcow2") == ["image-on-device"]
    assert await codes(lab, "shared", format="qcow2") == ["image-stays"]


async def test_an_image_that_cannot_move_as_it_is_is_found_until_it_is_mended(lab: Lab) -> None:
    h1, form = lab.host("h1"), DiskFormat.QCOW2
    chained = await define(lab, "chained", {"format": form})
    base = f"{lab.folders.datastore(LOCAL)}/golden.qcow2"
    await rest_on(lab, chained, base)
    assert await codes(lab, "chained") == []
    assert await codes(lab, "chained", provisioning="thick") == ["image-thick-on-base"]
    await shell(h1, f"qemu-img snapshot -c before {image(lab, chained)}")
    assert await codes(lab, "chained") == ["image-snapshots"]
    await shell(h1, f"qemu-img snapshot -d before {image(lab, chained)}")
    await shell(h1, f"mv {base} {base}.away")
    assert await codes(lab, "chained") == ["image-broken"]
    await shell(h1, f"mv {base}.away {base}")
    assert await codes(lab, "chained") == []
    rooted = await define(lab, "rooted", {"datastore": SHARED, "format": form})
    await rest_on(lab, rooted, f"{lab.folders.datastore(LOCAL)}/rooted.qcow2")
    assert await codes(lab, "rooted") == ["base-elsewhere"]


async def fill(lab: Lab, left: int) -> None:
    """Leave so many bytes free in h2's own datastore."""
    store = lab.folders.datastore(LOCAL)
    free = (await lab.host("h2").exec(["df", "--block-size=1", "--output=avail", str(store)])).split()[-1]
    await shell(lab.host("h2"), f"fallocate -l {int(free) - left} {store}/filler{left}")


async def test_a_datastore_that_is_too_small_or_gets_full_is_found(lab: Lab) -> None:
    await define(lab, "wide", {"size": 2 * GIB})
    await define(lab, "narrow")
    await define(lab, "swapper", swap="with-vm", memory=256 * MIB)
    assert await codes(lab, "wide") == ["datastore-may-fill"]
    assert await codes(lab, "wide", provisioning="thick") == ["datastore-full"]
    assert await codes(lab, "swapper") == []
    await fill(lab, 160 * MIB)
    assert await codes(lab, "swapper") == ["swap-no-room"]
    await fill(lab, 32 * MIB)
    assert await codes(lab, "narrow") == ["datastore-nearly-full"]
    await shell(lab.host("h2"), f"rm {lab.folders.datastore(LOCAL)}/filler*")

    async def has_room() -> bool:
        return await codes(lab, "narrow") == []

    await comes_true(has_room)  # XFS gives back what a deleted file had a little later


async def test_a_swap_file_without_a_place_is_found(lab: Lab) -> None:
    h2, shared = lab.host("h2"), lab.folders.datastore(SHARED)
    await define(lab, "withvm", swap="with-vm")
    await define(lab, "onhost", swap=f"host:{SHARED}")
    assert await codes(lab, "withvm", datastore=BLOCK) == ["swap-on-devices"]
    assert await codes(lab, "withvm", host="h1", datastore=SECOND) == ["swap-stays"]
    assert await codes(lab, "onhost") == []
    await shell(h2, f"umount {shared}")
    assert await codes(lab, "onhost") == ["swap-datastore-missing"]
    await shell(h2, f"mount --bind {lab.folders.host('world')}/{SHARED}-datastore {shared}")
    assert await codes(lab, "onhost") == []


async def test_a_bridge_that_one_host_has_is_missed(lab: Lab) -> None:
    await shell(lab.host("h1"), "ip link add br7 type bridge && ip link set br7 up")
    await define(lab, "bridged", nics=(NicDefinition(name="lan", bridge="br7", mac="52:54:00:92:00:71"),))
    assert await codes(lab, "bridged") == ["bridge-missing"]


async def test_what_the_state_of_a_vm_forbids_is_found(lab: Lab) -> None:
    cached = await define(lab, "cached", {"datastore": SHARED, "cache": "writeback"})
    assert await codes(lab, "cached") == []
    await lab.manager.start_vm("cached")
    assert await codes(lab, "cached") == ["disk-cached-on-shared"]
    lab.host("h1").kill_qemu(cached.uuid)
    await eventually(lambda: cached.uuid not in lab.host("h1").qemu_pids())
    assert await codes(lab, "cached") == ["vm-state"]
    await lab.manager.kill_vm("cached")
    assert await codes(lab, "cached") == []


@contextmanager
def registry(lab: Lab) -> Iterator[sqlite3.Connection]:
    """The registry's file, changed behind the manager's back: as one that was restored from an old copy."""
    with closing(sqlite3.connect(Path(lab.folders.host("world")) / "manager" / "registry.db")) as file, file:
        yield file


async def test_a_registry_that_says_otherwise_is_found(lab: Lab) -> None:
    owned, lost = [str((await define(lab, name)).uuid) for name in ("owned", "lost")]
    with registry(lab) as file:
        assert file.execute("UPDATE ownership SET epoch = 7 WHERE vm = ?", (owned,)).rowcount == 1
        assert file.execute("DELETE FROM ownership WHERE vm = ?", (lost,)).rowcount == 1
    assert await codes(lab, "owned") == ["vm-owned-elsewhere"]
    assert await codes(lab, "lost") == ["vm-not-registered"]


async def ended(lab: Lab, *tasks: Task) -> None:
    for task in tasks:
        async for state in lab.manager.watch_task(task.id):
            assert not state.ended_state or state.problem is None


async def held(lab: Lab, point: str, *asked: MoveRequest) -> list[Task]:
    """Moves that h1 has begun, and that stand still at `point` until it is disarmed."""
    lab.host("h1").arm(point, "hold")
    tasks = [await lab.manager.start_move(it) for it in asked]
    await eventually(lambda: lab.host("h1").is_held(point))
    return tasks


async def test_a_host_that_is_busy_is_found(lab: Lab) -> None:
    for name in ("first", "other", "third"):
        await define(lab, name)
    tasks = await held(lab, "source-mirroring", *(MoveRequest(vm=name, host="h2") for name in ("first", "other")))
    assert await codes(lab, "third") == ["would-be-queued"]
    lab.host("h1").disarm("source-mirroring")
    await ended(lab, *tasks)
    assert await codes(lab, "third") == []
    for name in ("first", "other"):
        await lab.manager.delete_vm(name)


async def test_a_host_whose_agent_is_away_is_found(lab: Lab) -> None:
    await define(lab, "waiting")
    await lab.hold("h2")
    await eventually(lambda: lab.host("h2").agent_pid() is None)
    assert await codes(lab, "waiting") == ["host-silent"]
    await lab.release("h2")

    async def can_move() -> bool:
        return await codes(lab, "waiting") == []

    await comes_true(can_move)


async def test_a_host_in_maintenance_takes_nothing(lab: Lab) -> None:
    await define(lab, "kept")
    assert (await lab.manager.host("h2")).maintenance is None
    await ended(lab, await lab.manager.enter_maintenance("h2", MaintenanceRequest()))
    assert await codes(lab, "kept") == ["host-in-maintenance"]
    await lab.manager.exit_maintenance("h2")
    assert await codes(lab, "kept") == []


async def test_a_move_that_the_manager_knows_nothing_of_is_found(lab: Lab) -> None:
    """The manager lost its tasks, and h1 goes on: it is asked, not remembered, whether the VM moves."""
    await define(lab, "moving")
    await held(lab, "storage-prepared", MoveRequest(vm="moving", host="h1", datastore=SECOND))
    await lab.hold("world", "manager")
    await eventually(lambda: not any(tuple(processes.argv(pid)[1:4]) == MANAGER for pid in lab.world.pids()))
    for file in (lab.folders.host("world") / "manager").glob("tasks.db*"):
        file.unlink()
    await lab.release("world", "manager")
    await lab.ready()
    assert await codes(lab, "moving") == ["vm-moving"]
    lab.host("h1").disarm("storage-prepared")

    async def has_moved() -> bool:
        vm = await lab.manager.vm("moving")
        return vm.move_id is None and vm.definition.disks[0].datastore == SECOND

    await comes_true(has_moved)
    assert await codes(lab, "moving") == []
