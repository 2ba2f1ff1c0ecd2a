"""Datastores: identity, names, disks."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from kvmove.disk import qcow2
from kvmove.disk.datastore import IDENTITY, Datastore
from kvmove.disk.errors import DiskError
from kvmove.disk.quarantine import Leaving
from kvmove.errors import Busy, CheckFailed, InvalidInput, NotFound
from kvmove.model.vm import DiskFormat, Provisioning
from tests.support.datastores import DISKS, MIB, OTHER, ROOT, VM, disk, tree

HOSTILE = ["../x", "..", ".", "", "a/b", "/etc/passwd", ".hidden", "a\0b", "a\n", "-x-", "a" * 64, "a b", "ä", "x,y=z"]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_an_identity_stays_and_tells_two_datastores_apart(store: Datastore, path: Path, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    assert Datastore.open("shared", path).id == store.id
    assert Datastore.create("local", tmp_path / "second").id != store.id


def test_a_directory_is_made_a_datastore_once(store: Datastore, path: Path) -> None:
    with pytest.raises(Busy):
        Datastore.create("local", path)
    assert Datastore.open("local", path).id == store.id


def test_without_identity_it_is_said_what_to_do(path: Path) -> None:
    with pytest.raises(NotFound, match="is no datastore") as caught:
        Datastore.open("local", path)
    assert "Mount" in caught.value.hint
    with pytest.raises(NotFound, match="does not exist"):
        Datastore.open("local", path / "none")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"id": "x", "version": 1}', '{"id": 7, "version": 1}', "\\"])
def test_a_damaged_identity_is_told(store: Datastore, path: Path, content: str) -> None:
    (path / IDENTITY).write_text(content)
    with pytest.raises(InvalidInput, match="damaged"):
        Datastore.open("local", path)


def test_a_later_version_is_refused(store: Datastore, path: Path) -> None:
    (path / IDENTITY).write_text(json.dumps({"id": str(store.id), "version": 2}))
    with pytest.raises(InvalidInput, match="version 2"):
        Datastore.open("local", path)


def test_info_tells_size_and_free_space(store: Datastore, path: Path) -> None:
    info = store.info()
    assert (info.name, info.id, info.path) == ("local", store.id, str(path))
    assert 0 < info.free < info.size


@pytest.mark.parametrize(
    "act",
    [
        lambda store: store.info(),
        lambda store: store.create_disk(VM, ROOT),
        lambda store: store.begin_incoming(VM, "m1", DISKS),
        lambda store: store.quarantine(VM, "m1", Leaving(DISKS)),
        lambda store: store.unfinished_moves(),
        lambda store: store.purge(0),
    ],
)
def test_nothing_is_done_once_the_file_system_is_gone(
    store: Datastore, path: Path, act: Callable[[Datastore], object]
) -> None:
    (path / IDENTITY).unlink()
    with pytest.raises(NotFound):
        act(store)
    assert tree(path) == []
    Datastore.create("local", path)  # another one was mounted there
    with pytest.raises(NotFound, match="is now datastore"):
        act(store)
    assert tree(path) == []


def test_a_disk_lies_where_the_vm_and_its_name_say(store: Datastore, path: Path) -> None:
    made = store.create_disk(VM, disk("root", 10 * MIB))
    assert made == store.disk_path(VM, ROOT) == path / str(VM) / "root.raw"
    assert made.stat().st_size == 10 * MIB
    assert made.stat().st_blocks == 0
    assert made.parent.stat().st_mode & 0o777 == 0o700
    store.create_disk(VM, disk("data"))
    assert tree(path) == [str(VM), f"{VM}/data.raw", f"{VM}/root.raw"]
    assert store.vms() == [VM]


def test_a_disk_is_read_and_written_through_its_name(store: Datastore) -> None:
    store.create_disk(VM, ROOT)
    with store.open_target(VM, ROOT) as target:
        target.write_at(100, b"hello")
        target.sync_folder()
    with store.open_source(VM, ROOT, direct=True) as source:
        buffer = memoryview(bytearray(5))
        source.read_into(buffer, 100)
        assert bytes(buffer) == b"hello"
    with pytest.raises(DiskError):
        store.open_source(VM, disk("none"), direct=False)
    with pytest.raises(NotFound):
        store.open_target(OTHER, ROOT)


def test_a_disk_is_made_once_and_only_where_there_is_room(store: Datastore, path: Path) -> None:
    with pytest.raises(CheckFailed):
        store.create_disk(VM, ROOT, reserve=2**60)
    assert tree(path) == []
    store.create_disk(VM, ROOT)
    with pytest.raises(DiskError, match="File exists"):
        store.create_disk(VM, ROOT)
    assert tree(path) == [str(VM), f"{VM}/root.raw"]


def test_the_files_of_a_disk_in_two_formats_are_two(store: Datastore) -> None:
    qcow2 = ROOT.model_copy(update={"format": DiskFormat.QCOW2})
    assert store.disk_path(VM, qcow2).name == "root.qcow2"
    assert store.disk_path(VM, ROOT).name == "root.raw"


def test_a_qcow2_disk_is_made_under_its_own_name(store: Datastore, path: Path) -> None:
    made = store.create_disk(VM, ROOT.model_copy(update={"format": DiskFormat.QCOW2}))
    assert made.name == "root.qcow2"
    assert qcow2.describe(made, DiskFormat.QCOW2).virtual_size == ROOT.size
    assert store.vms() == [VM]


def test_a_thick_disk_has_its_space_from_the_start_and_keeps_it(store: Datastore, path: Path) -> None:
    thick = ROOT.model_copy(update={"provisioning": Provisioning.THICK})
    made = store.create_disk(VM, thick)
    assert made.stat().st_blocks * 512 >= thick.size == made.stat().st_size
    with store.open_target(VM, thick) as target:
        assert target.is_blank
        target.write_at(0, b"x" * MIB)
        target.write_zeroes(1, MIB - 1)
        target.sync()
        assert target.allocated() >= thick.size
    with store.open_target(VM, thick) as target:
        assert not target.is_blank
    assert made.read_bytes() == b"x" + bytes(MIB - 1)


def test_a_thick_disk_that_has_no_room_leaves_nothing(store: Datastore, path: Path) -> None:
    with pytest.raises(CheckFailed, match="free"):
        store.create_disk(VM, ROOT.model_copy(update={"provisioning": Provisioning.THICK, "size": 2**60}))
    assert tree(path) == []


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_could_leave_the_datastore_are_refused(store: Datastore, tmp_path: Path, name: str) -> None:
    before = tree(tmp_path)
    for act in (
        lambda: store.disk_path(VM, disk(name)),
        lambda: store.create_disk(VM, disk(name)),
        lambda: store.open_source(VM, disk(name), direct=False),
        lambda: store.open_target(VM, disk(name)),
        lambda: store.begin_incoming(VM, name, DISKS),
        lambda: store.begin_incoming(VM, "m1", [name]),
        lambda: store.commit_incoming(VM, name),
        lambda: Datastore.open(name, store.path),
    ):
        with pytest.raises(InvalidInput):
            act()
    store.create_disk(VM, ROOT)
    with pytest.raises(InvalidInput):
        store.quarantine(VM, name, Leaving(DISKS))
    with pytest.raises(InvalidInput):
        store.discard_incoming(VM, name)
    assert [entry for entry in tree(tmp_path) if str(VM) not in entry and ".kvmove" not in entry] == before


def test_links_are_not_followed(store: Datastore, path: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "root.raw").write_bytes(b"precious")
    (path / str(OTHER)).symlink_to(outside)
    store.create_disk(VM, ROOT)
    (path / str(VM) / "link.raw").symlink_to(outside / "root.raw")
    (path / str(VM) / "dangling.raw").symlink_to(outside / "new.raw")
    opens: list[Callable[[UUID, str], object]] = [
        lambda vm, name: store.disk_path(vm, disk(name)),
        lambda vm, name: store.open_target(vm, disk(name)),
        lambda vm, name: store.create_disk(vm, disk(name)),
        lambda vm, name: store.open_source(vm, disk(name), direct=False),
    ]
    for vm, name in ((OTHER, "root"), (OTHER, "new"), (VM, "link"), (VM, "dangling")):
        for open_ in opens:
            with pytest.raises(DiskError):
                open_(vm, name)
    moves: list[Callable[[], object]] = [
        lambda: store.begin_incoming(OTHER, "m1", DISKS),
        lambda: store.discard_incoming(OTHER, "m1"),
        lambda: store.quarantine(OTHER, "m1", Leaving(DISKS)),
    ]
    for act in moves:
        with pytest.raises(DiskError):
            act()
    with pytest.raises(DiskError):
        store.delete_vm(OTHER)
    store.delete_vm(VM)
    assert (outside / "root.raw").read_bytes() == b"precious"
    assert tree(outside) == ["root.raw"]


def test_a_quarantine_that_is_a_link_is_not_followed(store: Datastore, path: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (path / ".kvmove-quarantine").symlink_to(tmp_path / "outside")
    store.create_disk(VM, ROOT)
    with pytest.raises(DiskError):
        store.quarantine(VM, "m1", Leaving(DISKS))
    assert store.vms() == [VM]
    assert tree(tmp_path / "outside") == []


def test_deleting_takes_this_vm_and_no_other(store: Datastore) -> None:
    store.create_disk(VM, ROOT)
    store.create_disk(OTHER, ROOT)
    store.delete_vm(VM)
    store.delete_vm(VM)
    assert store.vms() == [OTHER]
    assert store.purge(0) == []


def test_no_file_stays_open(store: Datastore) -> None:
    before = open_files()
    store.create_disk(VM, ROOT)
    store.open_source(VM, ROOT, direct=False).close()
    store.open_target(VM, ROOT).close()
    store.quarantine(VM, "m1", Leaving(DISKS))
    with pytest.raises(NotFound):
        store.open_target(VM, ROOT)
    store.purge(0)
    assert open_files() == before


@pytest.mark.parametrize("by_another_host", [False, True])
def test_a_purge_beside_deletions_disturbs_none(tmp_path: Path, by_another_host: bool) -> None:
    store = Datastore.create("local", tmp_path)
    purger = Datastore.open("san", tmp_path) if by_another_host else store
    ended = threading.Event()
    failures: list[Exception] = []

    def purge() -> None:
        while not ended.is_set():
            try:
                purger.purge(3600)
            except Exception as error:
                failures.append(error)
                return

    purging = threading.Thread(target=purge)
    purging.start()
    try:
        for _ in range(60):
            vm = uuid4()
            for number in range(8):
                store.create_disk(vm, disk(f"d{number}", 4096))
            store.delete_vm(vm)
    finally:
        ended.set()
        purging.join()
    assert failures == []
    assert store.vms() == []
