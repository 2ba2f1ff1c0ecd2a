"""VMs of a host with real QEMUs: started, stopped, crashed, moved in and out, and a restart of the agent in between."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvmove.errors import Busy, CheckFailed, NotFound
from kvmove.model.vm import BootDefinition, NicDefinition, VmDefinition, VmState
from kvmove.qemu import run_control
from kvmove.qemu.features import find_features
from kvmove.qemu.migration import Migration, MigrationParameters, Status
from tests.support.boot_guest import highest_count, write_boot_disk
from tests.support.real_qemu import PATIENCE, until, until_it_writes
from tests.support.vm_host import VmHost, definition, vm_host

DISKS = ("root", "data", "disk")


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[VmHost]:
    async with vm_host(tmp_path) as made:
        yield made


async def becomes(host: VmHost, vm: VmDefinition, state: VmState) -> None:
    for _ in range(int(PATIENCE / 0.05)):
        if (await host.vms.status(vm.uuid)).state is state:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the VM is {(await host.vms.status(vm.uuid)).state}, not {state}")


async def is_cleared(host: VmHost, vm: VmDefinition) -> None:
    await until(lambda: host.leftovers(vm.uuid) == [], "what its QEMU left is taken away")
    assert host.launcher.is_there(vm.uuid) is None


async def test_a_started_vm_runs_and_a_killed_one_leaves_nothing(host: VmHost) -> None:
    vm = await host.started()
    status = await host.vms.status(vm.uuid)
    assert (status.state, status.accelerator, status.epoch) == (VmState.RUNNING, "tcg", 1)
    assert status.pid is not None
    await until_it_writes(host.disk(vm))
    assert (await host.vms.kill(vm.uuid)).state is VmState.OFF
    assert host.leftovers(vm.uuid) == []
    assert host.launcher.is_there(vm.uuid) is None


async def test_starting_twice_is_starting_once(host: VmHost) -> None:
    vm = await host.started()
    pid = (await host.vms.status(vm.uuid)).pid
    assert (await host.vms.start(vm.uuid)).pid == pid


async def test_starting_a_paused_vm_lets_it_go_on(host: VmHost) -> None:
    vm = await host.started()
    await run_control.stop(host.vms.instance(vm.uuid).monitor)
    assert (await host.vms.status(vm.uuid)).state is VmState.PAUSED
    assert (await host.vms.start(vm.uuid)).state is VmState.RUNNING


async def test_a_guest_that_powers_off_is_off_and_can_be_started_again(host: VmHost) -> None:
    vm = await host.started(powers_off=True)
    await becomes(host, vm, VmState.OFF)
    write_boot_disk(host.disk(vm))
    await host.vms.start(vm.uuid)
    await until_it_writes(host.disk(vm))


async def test_a_guest_that_has_powered_off_this_moment_can_be_started(
    host: VmHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_yet(vm: object) -> None:
        pass

    monkeypatch.setattr(host.vms, "_clear_if_powered_off", not_yet)
    vm = await host.started(powers_off=True)
    await becomes(host, vm, VmState.OFF)
    write_boot_disk(host.disk(vm))
    assert (await host.vms.start(vm.uuid)).state is VmState.RUNNING
    await until_it_writes(host.disk(vm))


async def test_a_guest_that_does_not_heed_the_power_button_runs_on(host: VmHost) -> None:
    vm = await host.started()
    await until_it_writes(host.disk(vm))
    with pytest.raises(CheckFailed, match="did not shut down within") as caught:
        await host.vms.stop(vm.uuid, timeout=0.3)
    assert "--force" in caught.value.hint
    assert (await host.vms.status(vm.uuid)).state is VmState.RUNNING


async def test_a_guest_that_shuts_down_ends_the_wait_of_stop(host: VmHost) -> None:
    vm = await host.started()
    await until_it_writes(host.disk(vm))
    stopping = asyncio.create_task(host.vms.stop(vm.uuid, timeout=PATIENCE))
    await asyncio.sleep(0.1)
    write_boot_disk(host.disk(vm), powers_off=True)
    await run_control.reset(host.vms.instance(vm.uuid).monitor)  # stands for a guest that heeds it
    assert (await stopping).state is VmState.OFF


async def test_a_qemu_that_dies_is_a_crash_which_only_the_operator_ends(host: VmHost) -> None:
    vm = await host.started()
    host.vms.instance(vm.uuid).process.send_signal(signal.SIGKILL)
    await becomes(host, vm, VmState.CRASHED)
    await is_cleared(host, vm)
    await host.restart()
    assert (await host.vms.status(vm.uuid)).state is VmState.CRASHED
    assert (await host.vms.start(vm.uuid)).state is VmState.RUNNING


async def test_a_running_vm_is_not_deleted(host: VmHost) -> None:
    vm = await host.started()
    with pytest.raises(Busy, match="is not off"):
        await host.vms.delete(vm.uuid)
    await host.vms.kill(vm.uuid)
    await host.vms.delete(vm.uuid)
    assert not host.launcher.paths(vm.uuid).logs.exists()


async def test_a_restart_of_the_agent_touches_no_guest(host: VmHost) -> None:
    vm = await host.started()
    await until_it_writes(host.disk(vm))
    before = await host.vms.status(vm.uuid)
    await host.vms.close()
    await until_it_writes(host.disk(vm))
    await host.restart()
    assert await host.vms.status(vm.uuid) == before
    await until_it_writes(host.disk(vm))


async def test_a_guest_that_powered_off_while_no_agent_was_there_is_off(host: VmHost) -> None:
    vm = await host.started()
    await until_it_writes(host.disk(vm))  # a reset before the BIOS is through hangs QEMU 7.2's BIOS
    instance = host.vms.instance(vm.uuid)
    await run_control.stop(instance.monitor)
    write_boot_disk(host.disk(vm), powers_off=True)
    await run_control.reset(instance.monitor)
    since = instance.monitor.sequence
    host.vms.begin_move(vm.uuid, "m1", 1)  # so that this agent leaves it as it is
    await run_control.cont(instance.monitor)
    await instance.monitor.wait_event("SHUTDOWN", timeout=PATIENCE, since=since)
    assert host.launcher.is_there(vm.uuid) is not None
    await host.restart()
    await becomes(host, vm, VmState.OFF)


async def test_a_guest_that_powers_off_in_a_move_stays_until_the_move_has_ended(host: VmHost) -> None:
    vm = await host.started()
    await until_it_writes(host.disk(vm))
    host.vms.begin_move(vm.uuid, "m1", 1)
    instance = host.vms.instance(vm.uuid)
    since = instance.monitor.sequence
    write_boot_disk(host.disk(vm), powers_off=True)
    await run_control.reset(instance.monitor)
    await instance.monitor.wait_event("SHUTDOWN", timeout=PATIENCE, since=since)
    await asyncio.sleep(0.2)
    assert instance.process.is_alive()
    host.vms.end_move(vm.uuid, 1)
    await becomes(host, vm, VmState.OFF)
    await is_cleared(host, vm)


async def test_a_frozen_qemu_is_said_to_be_unknown_and_can_be_killed(host: VmHost) -> None:
    vm = await host.started()
    host.vms.instance(vm.uuid).process.send_signal(signal.SIGSTOP)
    assert (await host.vms.status(vm.uuid)).state is VmState.UNKNOWN
    assert (await host.vms.kill(vm.uuid)).state is VmState.OFF
    assert host.launcher.is_there(vm.uuid) is None


async def test_a_vm_without_its_disk_is_not_started(host: VmHost) -> None:
    vm = definition()
    await host.vms.define(vm)
    host.disk(vm).unlink()
    with pytest.raises(NotFound, match="Disk root of VM web is not there"):
        await host.vms.start(vm.uuid)
    assert (await host.vms.status(vm.uuid)).state is VmState.OFF
    assert host.leftovers(vm.uuid) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"boot": BootDefinition(kernel="/no/kernel")},
        {"nics": (NicDefinition(name="lan", bridge="no-bridge", mac="52:54:00:00:00:01"),)},
    ],
)
async def test_what_this_host_lacks_is_said_before_qemu_is_started(host: VmHost, changes: dict[str, object]) -> None:
    vm = definition().model_copy(update=changes)
    await host.vms.define(vm)
    with pytest.raises(CheckFailed, match=r"no-bridge|/no/kernel"):
        await host.vms.start(vm.uuid)
    assert (await host.vms.status(vm.uuid)).state is VmState.OFF


async def test_a_start_whose_guest_cannot_run_leaves_nothing(host: VmHost, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = definition()
    await host.vms.define(vm)

    async def fail(*whatever: object, **more: object) -> None:
        raise CheckFailed("no")

    with monkeypatch.context() as patch:
        patch.setattr(run_control, "cont", fail)
        with pytest.raises(CheckFailed):
            await host.vms.start(vm.uuid)
    assert (await host.vms.status(vm.uuid)).state is VmState.OFF
    assert host.launcher.is_there(vm.uuid) is None
    assert (await host.vms.start(vm.uuid)).state is VmState.RUNNING


async def test_a_start_while_a_lost_qemu_of_the_vm_lives_is_refused(host: VmHost) -> None:
    vm = await host.started()
    await until_it_writes(host.disk(vm))
    with pytest.raises(Busy, match="has a QEMU here already"):
        await host.launcher.launch(vm)
    await until_it_writes(host.disk(vm))


async def test_a_vm_moves_from_one_host_to_another(tmp_path: Path) -> None:
    for name in ("h1", "h2"):
        (tmp_path / name).mkdir()
    async with vm_host(tmp_path / "h1") as source, vm_host(tmp_path / "h2") as destination:
        vm = await source.started()
        await until_it_writes(source.disk(vm))
        destination.stores["ds"].begin_incoming(vm.uuid, "m1", DISKS)
        destination.stores["ds"].create_disk(vm.uuid, vm.disks[0])
        source.vms.begin_move(vm.uuid, "m1", 1)
        there = await destination.vms.start_incoming(vm, "m1")
        (arriving,) = await destination.vms.statuses()
        assert (arriving.state, arriving.move_id) == (VmState.INCOMING, "m1")
        await hand_over(source, destination, vm, tmp_path / "in")
        assert (await destination.vms.statuses())[0].state is VmState.INCOMING
        await run_control.cont(there.monitor)
        await destination.vms.take_ownership(vm, 2, runs=True)
        await destination.vms.take_ownership(vm, 2, runs=True)
        await source.vms.give_away(vm.uuid, 1)
        await source.vms.give_away(vm.uuid, 1)
        assert await source.vms.statuses() == []
        assert source.leftovers(vm.uuid) == []
        assert source.disk(vm).is_file()
        (arrived,) = await destination.vms.statuses()
        assert (arrived.state, arrived.epoch, arrived.move_id) == (VmState.RUNNING, 2, None)
        assert await until_it_writes(destination.disk(vm)) > highest_count(source.disk(vm))
        await destination.restart()
        assert await destination.vms.status(vm.uuid) == arrived
        destination.vms.instance(vm.uuid).process.send_signal(signal.SIGKILL)
        await becomes(destination, vm, VmState.CRASHED)


async def hand_over(source: VmHost, destination: VmHost, vm: VmDefinition, socket: Path) -> None:
    """Move the memory; nobody runs afterwards."""
    here = source.vms.instance(vm.uuid).monitor
    arrival = await destination.vms.adopt_incoming(vm, "m1")
    assert arrival is not None
    out = Migration(here, await find_features(here))
    into = Migration(arrival.monitor, await find_features(arrival.monitor))
    await into.configure_destination(0)
    await out.configure_source(0, MigrationParameters(max_bandwidth=0))
    await into.incoming(f"unix:{socket}")
    await out.migrate(f"unix:{socket}")
    await out.wait_status([Status.PRE_SWITCHOVER], timeout=PATIENCE)
    await out.continue_switchover()
    await out.wait_status([Status.COMPLETED], timeout=PATIENCE)
    await into.wait_status([Status.COMPLETED], timeout=PATIENCE)


async def arriving(host: VmHost) -> VmDefinition:
    vm = definition()
    host.stores["ds"].begin_incoming(vm.uuid, "m1", DISKS)
    host.stores["ds"].create_disk(vm.uuid, vm.disks[0])
    await host.vms.start_incoming(vm, "m1")
    return vm


async def test_an_arrival_that_is_given_up_leaves_its_disks_alone(host: VmHost) -> None:
    vm = await arriving(host)
    with pytest.raises(Busy, match="already"):
        await host.vms.start_incoming(vm, "m2")
    with pytest.raises(Busy, match="already"):
        await host.vms.define(definition())
    await host.vms.discard_incoming(vm.uuid)
    await host.vms.discard_incoming(vm.uuid)
    assert await host.vms.statuses() == []
    assert host.launcher.is_there(vm.uuid) is None
    assert host.leftovers(vm.uuid) == []
    assert host.disk(vm).is_file()


async def test_an_arrival_is_found_again_after_a_restart(host: VmHost) -> None:
    vm = await arriving(host)
    pid = host.launcher.is_there(vm.uuid)
    await host.restart()
    again = await host.vms.adopt_incoming(vm, "m1")
    assert again is not None
    assert again.process.pid == pid
    assert await run_control.run_state(again.monitor) == run_control.INCOMING


async def test_an_arrival_that_nobody_adopted_after_a_restart_can_be_discarded(host: VmHost) -> None:
    vm = await arriving(host)
    await host.restart()
    await host.vms.discard_incoming(vm.uuid)
    assert host.launcher.is_there(vm.uuid) is None
    assert await host.vms.adopt_incoming(vm, "m1") is None


async def test_disks_that_a_move_has_brought_start_nothing(host: VmHost) -> None:
    vm = await arriving(host)
    await host.vms.discard_incoming(vm.uuid)
    await host.registry.claim(vm.uuid, "h1")
    await host.vms.take_ownership(vm, 1, runs=True)
    with pytest.raises(CheckFailed, match="what move m1 has brought"):
        await host.vms.start(vm.uuid)
    assert (await host.vms.status(vm.uuid)).state is VmState.CRASHED
