"""What a move brings into a datastore, and what it leaves behind: partial disks, promises of space, quarantine."""

import json
from pathlib import Path

import pytest

from kvmove.disk import reservation
from kvmove.disk.datastore import IDENTITY, Datastore
from kvmove.disk.folder import Folder
from kvmove.disk.quarantine import Leaving
from kvmove.errors import Busy, CheckFailed, NotFound
from kvmove.model.image import BaseImage
from kvmove.model.vm import DiskFormat, Provisioning
from tests.support.datastores import DISKS, MIB, OTHER, ROOT, VM, disk, tree


def test_space_is_promised_to_one_move_alone_and_only_until_it_is_taken(store: Datastore, path: Path) -> None:
    most = store.info().free // 4 * 3 // MIB * MIB  # others may use and free space meanwhile
    big = ROOT.model_copy(update={"size": most})
    store.begin_incoming(VM, "m1", DISKS)
    store.create_disk(VM, big, reserve=most)
    store.begin_incoming(OTHER, "m2", DISKS)
    with pytest.raises(CheckFailed, match="promised to moves under way"):
        store.create_disk(OTHER, big, reserve=most)
    with pytest.raises(CheckFailed, match="promised to moves under way"):
        store.create_disk(OTHER, ROOT.model_copy(update={"size": most, "provisioning": Provisioning.THICK}))
    store.create_disk(OTHER, disk("small"), reserve=MIB)  # there is room for this one besides
    store.commit_incoming(VM, "m1")
    assert tree(path / str(VM)) == ["root.raw"]
    store.create_disk(OTHER, big, reserve=most)
    store.discard_incoming(OTHER, "m2")
    assert [entry for entry in tree(path) if "reserve" in entry] == []


def test_a_move_is_discarded_by_its_name_alone_and_others_stay(store: Datastore, path: Path) -> None:
    base = BaseImage(digest="0" * 64, format=DiskFormat.RAW, size=MIB)
    for vm, move in ((VM, "m1"), (OTHER, "m2")):
        store.begin_incoming(vm, move, DISKS)
        store.create_disk(vm, ROOT)
        store.begin_base(base, move)
    assert store.unfinished_moves() == {"m1", "m2"}
    store.discard_move("m1")
    assert store.unfinished_moves() == {"m2"}
    store.commit_incoming(OTHER, "m2")
    store.discard_move("m2")
    assert store.unfinished_moves() == set()
    assert store.vms() == [OTHER]


def test_a_path_is_known_while_the_datastore_is_away(store: Datastore, path: Path) -> None:
    made = store.create_disk(VM, ROOT)
    (path / IDENTITY).unlink()
    assert store.named_path(VM, ROOT) == made
    with pytest.raises(NotFound):
        store.disk_path(VM, ROOT)


def test_what_a_disk_has_taken_is_not_counted_twice(store: Datastore, path: Path) -> None:
    store.begin_incoming(VM, "m1", DISKS)
    store.create_disk(VM, disk("data", 64 * MIB), reserve=64 * MIB)
    with Folder.at(path) as root:
        assert reservation.outstanding(root) == 64 * MIB
        with store.open_target(VM, disk("data", 64 * MIB)) as target:
            target.write_at(0, b"x" * (16 * MIB))
            target.sync()
            assert reservation.outstanding(root) == 64 * MIB - target.allocated()
        store.commit_incoming(VM, "m1")
        assert reservation.outstanding(root) == 0


def test_a_move_in_is_partial_until_it_is_committed(store: Datastore, path: Path) -> None:
    store.begin_incoming(VM, "m1", DISKS)
    store.begin_incoming(VM, "m1", DISKS)
    store.create_disk(VM, ROOT)
    assert store.incoming_move(VM) == "m1"
    store.commit_incoming(VM, "m1")
    store.commit_incoming(VM, "m1")
    assert store.incoming_move(VM) is None
    assert tree(path) == [str(VM), f"{VM}/root.raw"]


def test_a_partial_folder_belongs_to_its_own_move(store: Datastore, path: Path) -> None:
    store.begin_incoming(VM, "m1", DISKS)
    store.create_disk(VM, ROOT)
    before = tree(path)
    for act in (
        lambda: store.begin_incoming(VM, "m2", DISKS),
        lambda: store.commit_incoming(VM, "m2"),
        lambda: store.discard_incoming(VM, "m2"),
        lambda: store.delete_vm(VM),
        lambda: store.quarantine(VM, "m1", Leaving(DISKS)),
    ):
        with pytest.raises(Busy):
            act()
    assert tree(path) == before
    assert store.incoming_move(VM) == "m1"


def test_a_whole_disk_is_no_moves_to_take_or_discard(store: Datastore, path: Path) -> None:
    store.create_disk(VM, ROOT)
    with pytest.raises(Busy, match=r"root\.raw"):
        store.begin_incoming(VM, "m1", DISKS)
    store.discard_incoming(VM, "m1")
    assert tree(path) == [str(VM), f"{VM}/root.raw"]


def test_a_disk_comes_beside_one_that_is_there_or_does_not(store: Datastore, path: Path) -> None:
    store.create_disk(VM, ROOT)
    for _ in range(2):
        store.begin_incoming(VM, "m1", ["data"])
        store.create_disk(VM, disk("data"), reserve=MIB)
        assert (store.incoming_move(VM, "root"), store.incoming_move(VM, "data")) == (None, "m1")
        with pytest.raises(Busy):
            store.begin_incoming(VM, "m2", ["small"])
        with pytest.raises(Busy):
            store.delete_vm(VM)
        with pytest.raises(Busy):
            store.quarantine(VM, "m3", Leaving(("root",), ("data",)))
        store.discard_incoming(VM, "m1")
        store.discard_incoming(VM, "m1")
        assert tree(path / str(VM)) == ["root.raw"]
    store.begin_incoming(VM, "m2", ["data"])
    store.create_disk(VM, disk("data"), reserve=MIB)
    store.commit_incoming(VM, "m2")
    assert tree(path / str(VM)) == ["data.raw", "root.raw"]
    assert store.incoming_move(VM) is None


def test_a_disk_leaves_and_others_stay(store: Datastore, path: Path) -> None:
    for name in ("root", "data", "data.old"):
        store.create_disk(VM, disk(name))
    (path / str(VM) / "base.qcow2").touch()  # what a disk rests on stays as long as any disk does
    leaving = Leaving(("data",), ("root", "data.old"))
    where = store.quarantine(VM, "m1", leaving)
    assert store.quarantine(VM, "m1", leaving) == where
    assert tree(where) == ["data.raw", "tombstone.json"]
    assert tree(path / str(VM)) == ["base.qcow2", "data.old.raw", "root.raw"]
    assert [it.move_id for it in store.quarantined()] == ["m1"]
    assert store.quarantine(VM, "m2", Leaving(("root", "data.old"))) != where
    assert store.vms() == []
    store.purge(0)
    assert tree(path) == [".kvmove-quarantine"]


def test_discarding_leaves_nothing_and_may_be_repeated(store: Datastore, path: Path) -> None:
    store.begin_incoming(VM, "m1", DISKS)
    store.create_disk(VM, ROOT)
    store.discard_incoming(VM, "m1")
    store.discard_incoming(VM, "m1")
    assert store.vms() == []
    assert tree(path) == [".kvmove-quarantine"]


def test_a_commit_without_a_folder_is_an_error(store: Datastore) -> None:
    with pytest.raises(NotFound):
        store.commit_incoming(VM, "m1")
    with pytest.raises(NotFound):
        store.incoming_move(VM)


def test_a_folder_never_appears_without_its_marker(store: Datastore, path: Path) -> None:
    (path / f".kvmove-new-{VM}").mkdir()  # an agent died there
    store.begin_incoming(VM, "m1", DISKS)
    assert store.incoming_move(VM) == "m1"
    assert tree(path) == [str(VM), f"{VM}/.incoming-m1"]


def test_quarantined_disks_are_kept_whole_and_no_vms(store: Datastore, path: Path) -> None:
    store.create_disk(VM, ROOT)
    with store.open_target(VM, ROOT) as held:
        where = store.quarantine(VM, "m1", Leaving(DISKS))
        held.write_at(0, b"still open")
    assert where == path / ".kvmove-quarantine" / f"{VM}.m1"
    assert store.quarantine(VM, "m1", Leaving(DISKS)) == where
    assert (where / "root.raw").read_bytes()[:10] == b"still open"
    assert store.vms() == []
    [kept] = store.quarantined()
    assert (kept.vm, kept.move_id, kept.name) == (VM, "m1", f"{VM}.m1")
    assert json.loads((where / "tombstone.json").read_text())["since"] == kept.since


def test_only_what_is_old_enough_is_purged(store: Datastore, path: Path) -> None:
    for vm, move_id in ((VM, "old"), (OTHER, "new")):
        store.create_disk(vm, ROOT)
        tombstone = store.quarantine(vm, move_id, Leaving(DISKS)) / "tombstone.json"
    old = path / ".kvmove-quarantine" / f"{VM}.old" / "tombstone.json"
    content = json.loads(old.read_text())
    old.write_text(json.dumps(content | {"since": content["since"] - 3601}))
    assert store.purge(3600) == [f"{VM}.old"]
    assert [kept.move_id for kept in store.quarantined()] == ["new"]
    tombstone.write_text("damaged")
    assert store.purge(0) == []


def test_leftovers_of_a_deletion_are_purged_at_any_age(store: Datastore, path: Path) -> None:
    (path / ".kvmove-quarantine" / f"{VM}.gone-1").mkdir(parents=True)
    assert store.quarantined() == []
    assert store.purge(10**9) == [f"{VM}.gone-1"]


def test_a_vm_may_come_back_and_leave_again(store: Datastore) -> None:
    for move_id in ("m1", "m3"):
        store.begin_incoming(VM, f"in-{move_id}", DISKS)
        store.create_disk(VM, ROOT)
        store.commit_incoming(VM, f"in-{move_id}")
        store.quarantine(VM, move_id, Leaving(DISKS))
    assert sorted(kept.move_id for kept in store.quarantined()) == ["m1", "m3"]


def test_an_interrupted_quarantine_is_finished_by_the_next_call(store: Datastore, path: Path) -> None:
    store.create_disk(VM, ROOT)
    (path / str(VM) / "tombstone.json").write_text("{}")
    store.quarantine(VM, "m1", Leaving(DISKS))
    assert [kept.move_id for kept in store.quarantined()] == ["m1"]
