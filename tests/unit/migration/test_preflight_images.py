"""What a disk becomes, and what of its image keeps it from moving."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.errors import CheckFailed
from kvmove.migration.plan import check, make_plan
from kvmove.migration.preflight_images import devices_suffice
from kvmove.migration.probed import Known
from kvmove.model.finding import Finding, Severity
from kvmove.model.image import BackingImage, DiskImage
from kvmove.model.move import MovePlan, MoveRequest
from kvmove.model.ownership import Ownership
from kvmove.model.vm import DiskFormat, Provisioning, VmDefinition, VmStatus
from kvmove.units import GIB, MIB
from tests.support.nouns import VM, host_status, vm_definition, vm_status

RAW, QCOW2 = DiskFormat.RAW, DiskFormat.QCOW2
THIN, THICK = Provisioning.THIN, Provisioning.THICK

BASE = BackingImage(path="/srv/images/golden.qcow2", format=QCOW2, size=700 * MIB)
OWNED = Ownership(vm=VM, owner="h1", epoch=3)


def a_vm(form: DiskFormat = RAW, provisioning: Provisioning = THIN) -> VmStatus:
    """`web` with both its disks of one kind."""
    disks = tuple(
        disk.model_copy(update={"format": form, "provisioning": provisioning}) for disk in vm_definition().disks
    )
    definition = VmDefinition.model_validate(vm_definition().model_dump() | {"disks": disks})
    return vm_status().model_copy(update={"definition": definition})


def situation(
    vm: VmStatus, devices: tuple[int, ...] | None = None, **request: Any
) -> tuple[MoveRequest, VmStatus, Any, Ownership]:
    """A move of `vm` from h1 to h2, whose datastore `fast` has those devices."""
    destination = host_status(2)
    assert destination.info is not None
    local, fast = destination.info.datastores
    info = destination.info.model_copy(update={"datastores": (local, fast.model_copy(update={"devices": devices}))})
    hosts = {"h1": host_status(1), "h2": destination.model_copy(update={"info": info})}
    return MoveRequest.model_validate({"vm": "web", "host": "h2", **request}), vm, hosts, OWNED


def images(**of_root: Any) -> dict[str, DiskImage]:
    return {"root": DiskImage(name="root", **of_root)}


def plan(
    request: MoveRequest, vm: VmStatus, hosts: Any, owned: Ownership, found: dict[str, DiskImage] | None = None
) -> MovePlan:
    return make_plan(request, vm, hosts, owned, "m1", Known(found or {}))


def becomes(made: MovePlan) -> list[tuple[DiskFormat, Provisioning]]:
    assert [(it.format, it.provisioning) for it in made.disks] == [(it.format, it.provisioning) for it in made.vm.disks]
    return [(it.format, it.provisioning) for it in made.disks]


def blockers(found: list[Finding]) -> list[str]:
    return [it.what for it in found if it.severity is Severity.BLOCKER]


@pytest.mark.parametrize("form", list(DiskFormat))
@pytest.mark.parametrize("provisioning", list(Provisioning))
def test_a_disk_stays_what_it_is_unless_asked(form: DiskFormat, provisioning: Provisioning) -> None:
    assert becomes(plan(*situation(a_vm(form, provisioning)))) == [(form, provisioning)] * 2


def test_what_is_asked_for_one_disk_wins_over_what_is_asked_for_all() -> None:
    made = plan(*situation(a_vm(), format="qcow2", provisioning="thick", disks={"data": {"format": "raw"}}))
    assert becomes(made) == [(QCOW2, THICK), (RAW, THICK)]
    assert [it.source_format for it in made.disks] == [RAW, RAW]


def test_on_block_devices_a_disk_is_raw_and_thick_by_itself() -> None:
    made = plan(*situation(a_vm(QCOW2), (4 * GIB, 4 * GIB), datastore="fast"))
    assert becomes(made) == [(RAW, THICK)] * 2
    assert all(it.on_device for it in made.disks)


@pytest.mark.parametrize("asked", [{"format": "qcow2"}, {"provisioning": "thin"}])
def test_on_block_devices_it_is_nothing_else(asked: dict[str, str]) -> None:
    found = check(*situation(a_vm(), (4 * GIB, 4 * GIB), datastore="fast", **asked))
    assert ["a disk on a block device has all its space" in it for it in blockers(found)] == [True, True]


def test_each_disk_needs_a_device_of_its_own() -> None:
    (found,) = blockers(check(*situation(a_vm(), (64 * GIB,), datastore="fast")))
    assert "no free devices for disks of" in found
    assert "free: 64.0 GiB" in found


def test_what_a_disk_rests_on_comes_along_unless_it_becomes_one_image() -> None:
    chained = images(backing=(BASE,))
    assert [it.backing for it in plan(*situation(a_vm(QCOW2)), found=chained).disks] == [(BASE,), ()]
    for asked in ({"flatten": True}, {"format": "raw"}, {"disks": {"root": {"format": "raw"}}}):
        assert [it.backing for it in plan(*situation(a_vm(QCOW2), **asked), found=chained).disks] == [(), ()]


def test_a_chain_cannot_be_thick_but_one_image_can() -> None:
    chained = images(backing=(BASE,))
    (found,) = blockers(check(*situation(a_vm(QCOW2), provisioning="thick"), Known(chained)))
    assert "rests on other images and cannot be thick" in found
    assert blockers(check(*situation(a_vm(QCOW2), provisioning="thick", flatten=True), Known(chained))) == []


def test_what_it_rests_on_needs_room_too() -> None:
    big = images(backing=(BASE.model_copy(update={"size": 10_000 * GIB}),))
    (found,) = blockers(check(*situation(a_vm(QCOW2)), Known(big)))
    assert "and the disks need" in found
    assert blockers(check(*situation(a_vm(QCOW2), flatten=True), Known(big))) == []


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"snapshots": ("before", "after")}, "has the internal snapshots before, after"),
        ({"problem": "it is marked as corrupt"}, "disk root: it is marked as corrupt"),
    ],
)
def test_what_cannot_come_along_is_refused_with_the_way_out(image: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckFailed, match=words) as caught:
        plan(*situation(a_vm(QCOW2)), found=images(**image))
    assert "qemu-img" in caught.value.hint


def test_a_disk_that_stays_must_rest_on_what_the_other_host_sees_too() -> None:
    request, vm, hosts, owned = situation(a_vm(QCOW2))
    source, destination = hosts["h1"].info, hosts["h2"].info
    shared = destination.model_copy(update={"datastores": source.datastores})
    hosts = hosts | {"h2": hosts["h2"].model_copy(update={"info": shared})}
    place = next(store.path for store in source.datastores if store.name == vm.definition.disks[0].datastore)
    inside = BASE.model_copy(update={"path": f"{place}/golden.qcow2"})
    assert blockers(check(request, vm, hosts, owned, Known(images(backing=(inside,))))) == []
    (found,) = blockers(check(request, vm, hosts, owned, Known(images(backing=(BASE,)))))
    assert "rests on /srv/images/golden.qcow2, which does not" in found


@given(st.lists(st.integers(1, 9), max_size=5), st.lists(st.integers(1, 9), max_size=6))
def test_devices_suffice_when_some_assignment_fits(sizes: list[int], free: list[int]) -> None:
    """Largest disk to largest device is the assignment that fits if any does."""
    best = sorted(free, reverse=True)
    fits = len(sizes) <= len(free) and all(
        size <= device for size, device in zip(sorted(sizes, reverse=True), best, strict=False)
    )
    assert devices_suffice(sizes, tuple(free)) == fits
