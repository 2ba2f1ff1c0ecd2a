"""Defining and deleting VMs, and the guards that need no QEMU to say no."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from kvmove.errors import Busy, CheckFailed, NotFound, Unreachable
from kvmove.model.ownership import Ownership
from kvmove.model.vm import VmDefinition, VmState
from kvmove.registry import ownership
from tests.support.boot_guest import DISK_SIZE
from tests.support.vm_host import HOST, VmHost, definition, vm_host


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[VmHost]:
    async with vm_host(tmp_path) as made:
        yield made


async def test_a_new_vm_is_off_owned_and_has_its_disks(host: VmHost) -> None:
    vm = definition()
    status = await host.vms.define(vm)
    assert (status.definition, status.host, status.state, status.epoch) == (vm, HOST, VmState.OFF, 1)
    assert await host.registry.get(vm.uuid) == Ownership(vm=vm.uuid, owner=HOST, epoch=1)
    assert host.disk(vm).stat().st_size == DISK_SIZE
    assert await host.vms.statuses() == [status]


async def test_defining_the_same_vm_twice_changes_nothing(host: VmHost) -> None:
    vm = definition()
    assert await host.vms.define(vm) == await host.vms.define(vm)


async def test_a_taken_uuid_or_name_is_refused(host: VmHost) -> None:
    vm = definition()
    await host.vms.define(vm)
    with pytest.raises(Busy, match="already, as web"):
        await host.vms.define(definition("other", vm.uuid))
    with pytest.raises(Busy, match="a VM called web already"):
        await host.vms.define(definition())


async def test_a_vm_of_another_host_is_refused_and_nothing_is_left(host: VmHost) -> None:
    vm = definition()
    await host.registry.claim(vm.uuid, "h2")
    with pytest.raises(Busy, match="h2"):
        await host.vms.define(vm)
    assert host.stores["ds"].vms() == []
    assert await host.vms.statuses() == []


async def test_a_registry_that_is_down_leaves_nothing_and_a_second_try_succeeds(host: VmHost) -> None:
    vm = definition()
    host.registry.down = True
    with pytest.raises(Unreachable):
        await host.vms.define(vm)
    assert host.stores["ds"].vms() == []
    host.registry.down = False
    await host.vms.define(vm)


async def test_disks_that_were_there_before_survive_a_refused_definition(host: VmHost) -> None:
    vm = definition()
    old = host.stores["ds"].create_disk(vm.uuid, vm.disks[0])
    with pytest.raises(Busy, match="has disks"):
        await host.vms.define(vm)
    assert old.is_file()


async def test_a_definition_for_kvm_is_refused_where_there_is_none(host: VmHost) -> None:
    with pytest.raises(CheckFailed, match="KVM"):
        await host.vms.define(definition().model_copy(update={"accelerator": "kvm"}))


async def defined_half(host: VmHost, monkeypatch: pytest.MonkeyPatch) -> VmDefinition:
    """A VM whose agent died while it was defined: its disks are there, and nobody has claimed it."""
    vm = definition()

    async def die(*whatever: object) -> None:
        raise KeyboardInterrupt

    async def no_undo(*whatever: object) -> None:
        pass

    with monkeypatch.context() as patch:
        patch.setattr(host.registry, "claim", die)
        patch.setattr("kvmove.agent.vm_disks.VmDisks.delete", lambda *whatever: None)
        patch.setattr(host.vms, "_forget", no_undo)
        with pytest.raises(KeyboardInterrupt):
            await host.vms.define(vm)
    assert host.stores["ds"].vms() == [vm.uuid]
    return vm


async def test_a_definition_cut_short_is_undone_by_the_next_start_of_the_agent(
    host: VmHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    await defined_half(host, monkeypatch)
    await host.restart()
    assert host.stores["ds"].vms() == []
    assert await host.vms.statuses() == []


async def test_a_definition_cut_short_is_forgotten_where_another_host_has_the_vm_by_now(
    host: VmHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disks, on a datastore that both share, are the other host's."""
    vm = await defined_half(host, monkeypatch)
    await host.registry.claim(vm.uuid, "elsewhere")
    await host.restart()
    assert host.stores["ds"].vms() == [vm.uuid]
    assert await host.vms.statuses() == []


async def test_a_deleted_vm_is_gone_from_disk_registry_and_list(host: VmHost) -> None:
    vm = definition()
    await host.vms.define(vm)
    await host.vms.delete(vm.uuid)
    assert host.stores["ds"].vms() == []
    assert await host.registry.get(vm.uuid) is None
    with pytest.raises(NotFound):
        await host.vms.status(vm.uuid)
    await host.restart()
    assert await host.vms.statuses() == []


async def test_a_vm_that_another_host_owns_now_is_neither_deleted_nor_started(host: VmHost) -> None:
    vm = definition()
    await host.vms.define(vm)
    owned = await host.registry.get(vm.uuid)
    assert owned is not None
    moving = await host.registry.swap(owned, ownership.begin(owned, "m1", "h2"))
    for _ in ("moving", "moved"):
        with pytest.raises(Busy):
            await host.vms.delete(vm.uuid)
        with pytest.raises(Busy):
            await host.vms.start(vm.uuid)
        if moving.move_id:
            moving = await host.registry.swap(moving, ownership.commit(moving, "m1", "h2"))
    assert host.disk(vm).is_file()


async def test_an_old_epoch_is_not_started_until_the_move_is_ended_here(host: VmHost) -> None:
    vm = definition()
    await host.vms.define(vm)
    owned = await host.registry.get(vm.uuid)
    assert owned is not None
    moving = await host.registry.swap(owned, ownership.begin(owned, "m1", "h2"))
    await host.registry.swap(moving, ownership.abort(moving, "m1"))
    with pytest.raises(CheckFailed, match="under epoch 1, the registry under 2"):
        await host.vms.start(vm.uuid)


async def test_without_the_registry_nothing_is_started(host: VmHost) -> None:
    vm = definition()
    await host.vms.define(vm)
    host.registry.down = True
    with pytest.raises(Unreachable):
        await host.vms.start(vm.uuid)
    assert (await host.vms.status(vm.uuid)).state is VmState.OFF


async def test_a_vm_that_moves_is_left_alone_by_everyone_else(host: VmHost) -> None:
    vm = definition()
    await host.vms.define(vm)
    host.vms.begin_move(vm.uuid, "m1", 1)
    for ask in (host.vms.start, host.vms.stop, host.vms.kill, host.vms.delete):
        with pytest.raises(Busy, match="moves"):
            await ask(vm.uuid)
    with pytest.raises(Busy, match="moves"):
        host.vms.begin_move(vm.uuid, "m2", 1)
    assert (await host.vms.status(vm.uuid)).move_id == "m1"
    host.vms.end_move(vm.uuid, 2)
    assert ((await host.vms.status(vm.uuid)).epoch, (await host.vms.status(vm.uuid)).move_id) == (2, None)
    await host.restart()
    assert (await host.vms.status(vm.uuid)).epoch == 2


async def test_a_vm_that_is_off_has_no_instance_and_stopping_it_is_nothing(host: VmHost) -> None:
    vm = definition()
    await host.vms.define(vm)
    with pytest.raises(CheckFailed, match="does not run on h1"):
        host.vms.instance(vm.uuid)
    assert (await host.vms.stop(vm.uuid)).state is VmState.OFF
    assert (await host.vms.kill(vm.uuid)).state is VmState.OFF


async def test_a_vm_that_nobody_knows_is_not_found(host: VmHost) -> None:
    unknown = uuid4()
    for ask in (host.vms.start, host.vms.stop, host.vms.kill, host.vms.delete, host.vms.status):
        with pytest.raises(NotFound, match=str(unknown)):
            await ask(unknown)
    with pytest.raises(NotFound):
        host.vms.definition(unknown)


async def test_discarding_and_giving_away_what_is_not_there_is_fine(host: VmHost) -> None:
    await host.vms.discard_incoming(uuid4())
    await host.vms.give_away(uuid4(), 1)


async def test_a_vm_of_this_host_is_not_discarded_as_an_arrival(host: VmHost) -> None:
    vm = definition()
    await host.vms.define(vm)
    with pytest.raises(Busy, match="h1's own"):
        await host.vms.discard_incoming(vm.uuid)
