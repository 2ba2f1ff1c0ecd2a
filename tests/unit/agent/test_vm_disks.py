"""A VM's disks by its definition."""

from pathlib import Path

import pytest

from kvmove.agent.vm_disks import VmDisks
from kvmove.disk import fallocate, qcow2
from kvmove.disk.datastore import Datastore
from kvmove.errors import Busy, CheckFailed, KvmoveError, NotFound
from kvmove.model.vm import DiskDefinition, DiskFormat, VmDefinition
from kvmove.units import MIB
from tests.support.samples import WEB1

DISKS = ("root", "data", "disk")

TWO_STORES = VmDefinition(
    name="web",
    uuid=WEB1,
    memory=MIB,
    disks=(
        DiskDefinition(name="root", datastore="fast", size=2 * MIB),
        DiskDefinition(name="data", datastore="slow", size=3 * MIB),
    ),
)


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, Datastore]:
    for name in ("fast", "slow"):
        (tmp_path / name).mkdir()
    return {name: Datastore.create(name, tmp_path / name) for name in ("fast", "slow")}


def test_disks_are_made_in_their_datastores_with_their_sizes(stores: dict[str, Datastore]) -> None:
    disks = VmDisks(stores)
    disks.make(TWO_STORES)
    files = disks.files(TWO_STORES, incoming=False)
    assert {name: file.stat().st_size for name, file in files.items()} == {"root": 2 * MIB, "data": 3 * MIB}
    assert files["root"].is_relative_to(stores["fast"].path)
    assert files["data"].is_relative_to(stores["slow"].path)


def test_a_new_qcow2_disk_is_an_image(stores: dict[str, Datastore]) -> None:
    root = TWO_STORES.disks[0].model_copy(update={"format": DiskFormat.QCOW2})
    disks, definition = VmDisks(stores), TWO_STORES.model_copy(update={"disks": (root,)})
    disks.make(definition)
    made = disks.files(definition, incoming=False)["root"]
    assert qcow2.describe(made, DiskFormat.QCOW2).virtual_size == root.size
    assert disks.images(definition)[0].problem == ""


def test_what_storage_holds_ready_beyond_the_end_of_an_image_is_not_the_images(stores: dict[str, Datastore]) -> None:
    root = TWO_STORES.disks[0].model_copy(update={"format": DiskFormat.QCOW2})
    disks, definition = VmDisks(stores), TWO_STORES.model_copy(update={"disks": (root,)})
    disks.make(definition)
    path = disks.files(definition, incoming=False)["root"]
    size = path.stat().st_size
    with path.open("r+b") as file:
        assert fallocate.zero_range(file.fileno(), size, 8 * MIB)
    assert path.stat().st_blocks * 512 > size
    assert path.stat().st_size == size
    [image] = disks.images(definition)
    assert image.allocated is not None
    assert image.allocated <= size


def test_deleting_leaves_nothing_in_any_datastore(stores: dict[str, Datastore]) -> None:
    disks = VmDisks(stores)
    disks.make(TWO_STORES)
    disks.delete(TWO_STORES)
    disks.delete(TWO_STORES)
    assert [store.vms() for store in stores.values()] == [[], []]


def test_a_disk_that_is_not_there_is_named(stores: dict[str, Datastore]) -> None:
    disks = VmDisks(stores)
    disks.make(TWO_STORES)
    disks.files(TWO_STORES, incoming=False)["data"].unlink()
    with pytest.raises(NotFound, match="Disk data of VM web"):
        disks.files(TWO_STORES, incoming=False)


def test_disks_of_an_unfinished_move_are_for_the_move_alone(stores: dict[str, Datastore]) -> None:
    disks = VmDisks(stores)
    for store in stores.values():
        store.begin_incoming(WEB1, "m1", DISKS)
    disks.make(TWO_STORES)
    assert set(disks.files(TWO_STORES, incoming=True)) == {"root", "data"}
    with pytest.raises(CheckFailed, match="move m1 has brought"):
        disks.files(TWO_STORES, incoming=False)


def test_disks_that_lie_there_already_are_not_taken_for_new_ones(stores: dict[str, Datastore]) -> None:
    disks = VmDisks(stores)
    disks.require_none(TWO_STORES)
    stores["slow"].create_disk(WEB1, TWO_STORES.disks[1])
    with pytest.raises(Busy, match="Datastore slow has disks"):
        disks.require_none(TWO_STORES)


def test_an_unknown_datastore_is_said_with_those_that_are_known(stores: dict[str, Datastore]) -> None:
    with pytest.raises(NotFound, match="no datastore fast; it has slow"):
        VmDisks({"slow": stores["slow"]}).make(TWO_STORES)


def test_disks_that_another_host_has_made_survive_a_definition_that_fails(stores: dict[str, Datastore]) -> None:
    """Both hosts define one VM at a time, on datastores that they share."""
    disks = VmDisks(stores)
    theirs = TWO_STORES.model_copy(update={"disks": TWO_STORES.disks[1:]})
    disks.make(theirs)
    with pytest.raises(KvmoveError):
        disks.make(TWO_STORES)
    assert stores["fast"].vms() == []
    assert disks.files(theirs, incoming=False)["data"].exists()
