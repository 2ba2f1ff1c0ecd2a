"""What qemu-img makes of our images and tells of them, and what is refused before anything opens it."""

import asyncio
import os
from pathlib import Path

import pytest

from kvmove.disk import qcow2
from kvmove.disk.errors import DiskError
from kvmove.disk.qcow2 import Layer, Snapshot, create, describe, rebase_unsafe
from kvmove.errors import CheckFailed, MoveFailed
from kvmove.model.vm import DiskDefinition, DiskFormat
from kvmove.qemu.storage_daemon import StorageDaemon
from kvmove.units import KIB, MIB
from tests.support.images import allocated, content, run

SIZE = 64 * MIB
QCOW2, RAW = DiskFormat.QCOW2, DiskFormat.RAW


def test_an_image_is_thin_has_subclusters_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "a,b=c d.qcow2"
    create(path, SIZE)
    found = describe(path, QCOW2)
    assert found[:3] == (SIZE, 128 * KIB, True)
    assert found[3:] == ((), (), False, False)
    assert allocated(path) < MIB
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_thick_image_takes_its_space_now(tmp_path: Path) -> None:
    create(tmp_path / "a.qcow2", SIZE, thick=True)
    assert allocated(tmp_path / "a.qcow2") >= SIZE
    assert content(tmp_path / "a.qcow2", "qcow2") == bytes(SIZE)


def test_an_image_is_like_another(tmp_path: Path) -> None:
    run("qemu-img", "create", "-f", "qcow2", "-o", "cluster_size=64k", tmp_path / "old.qcow2", "1M")
    old = describe(tmp_path / "old.qcow2", QCOW2)
    create(tmp_path / "new.qcow2", SIZE, like=old)
    new = describe(tmp_path / "new.qcow2", QCOW2)
    assert new[:3] == (SIZE, 64 * KIB, False) == (SIZE, *old[1:3])


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    path.write_bytes(b"mine")
    with pytest.raises(DiskError, match="File exists"):
        create(path, SIZE)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("thick", [False, True])
def test_a_create_that_fails_leaves_nothing(tmp_path: Path, thick: bool) -> None:
    missing = Layer(tmp_path / "missing.qcow2", QCOW2)
    with pytest.raises(CheckFailed if thick else MoveFailed, match="missing"):
        create(tmp_path / "a.qcow2", SIZE, backing=missing, thick=thick)
    with pytest.raises(MoveFailed, match="too large"):
        create(tmp_path / "a.qcow2", 1 << 62, thick=thick)
    assert list(tmp_path.iterdir()) == []


def test_a_raw_image_is_what_it_is_whatever_a_guest_writes_to_it(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    create(path, SIZE)
    os.truncate(path, SIZE)
    assert describe(path, RAW) == (SIZE, 0, False, (), (), False, False)
    path.write_bytes(bytes(512))
    with pytest.raises(MoveFailed, match="not in qcow2 format"):
        describe(path, QCOW2)


def chain(folder: Path) -> tuple[Layer, Layer, Path]:
    """A raw image, a qcow2 on it, and one on that in another folder, by names relative to each."""
    base, middle, top = folder / "base.raw", folder / "middle.qcow2", folder / "vm" / "top.qcow2"
    top.parent.mkdir()
    base.write_bytes(b"b" * SIZE)
    create(middle, SIZE, backing=Layer(base, RAW))
    create(top, SIZE, backing=Layer(middle, QCOW2))
    return Layer(base, RAW), Layer(middle, QCOW2), top


def test_a_chain_is_told_nearest_first_with_real_paths(tmp_path: Path) -> None:
    base, middle, top = chain(tmp_path)
    assert describe(top, QCOW2).backing == (middle, base)
    (tmp_path / "link").symlink_to(top.parent)
    assert describe(tmp_path / "link" / "top.qcow2", QCOW2).backing == (middle, base)


def test_a_chain_can_be_moved_together(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    _, _, top = chain(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    assert content(tmp_path / "new" / "vm" / top.name, "qcow2") == b"b" * SIZE


def test_an_image_can_be_put_on_another_copy_of_what_it_rests_on(tmp_path: Path) -> None:
    _, middle, top = chain(tmp_path)
    copy = tmp_path / "vm" / "a:b.qcow2"
    copy.write_bytes(middle.path.read_bytes())
    rebase_unsafe(copy, Layer(tmp_path / "base.raw", RAW))
    rebase_unsafe(top, Layer(copy, QCOW2))
    assert describe(top, QCOW2).backing[0] == (copy, QCOW2)
    assert content(top, "qcow2") == b"b" * SIZE


def test_a_layer_that_does_not_say_its_format_is_refused_with_the_remedy(tmp_path: Path) -> None:
    _, middle, top = chain(tmp_path)
    image = middle.path.read_bytes()  # qemu-img makes none such any more: another number in the header's extension
    middle.path.write_bytes(image.replace(bytes.fromhex("e2792aca"), bytes.fromhex("e2792acb"), 1))
    with pytest.raises(CheckFailed, match="does not say of what format") as caught:
        describe(top, QCOW2)
    assert f"qemu-img rebase -u -f qcow2 -F FORMAT -b base.raw {middle.path}" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "stated", "words"),
    [
        ("nowhere.raw", "raw", "no file of this host"),
        ("nbd://localhost/x", "raw", "no file of this host"),
        ('json:{"driver":"null-co"}', "raw", "no file of this host"),
        ("base.raw", "vmdk", "of format vmdk"),
        ("vm/top.qcow2", "qcow2", "rests on it"),
    ],
)
def test_a_chain_that_cannot_be_moved_is_refused(tmp_path: Path, name: str, stated: str, words: str) -> None:
    _, middle, top = chain(tmp_path)
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", stated, "-b", name, middle.path)
    with pytest.raises(CheckFailed, match=words):
        describe(top, QCOW2)


def test_data_in_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    run("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", path, "1M")
    with pytest.raises(CheckFailed, match="in another file"):
        describe(path, QCOW2)


async def test_an_image_in_use_is_described_with_its_snapshots(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    create(path, SIZE)
    run("qemu-img", "snapshot", "-c", "before", path)
    disk = DiskDefinition(name="root", datastore="ds", size=SIZE, format=QCOW2)
    daemon = await StorageDaemon.start(disk, path, tmp_path / "nbd" / "s", writable=True)
    try:
        found = await asyncio.to_thread(describe, path, QCOW2)
    finally:
        await daemon.end()
    assert found.snapshots == (Snapshot("before", 0),)
    assert not found.is_corrupt


def test_a_dirty_and_a_corrupt_image_say_so(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    create(path, SIZE)
    header = bytearray(path.read_bytes())
    header[79] |= 3  # incompatible features, bits 0 and 1 (QEMU docs/interop/qcow2.txt)
    path.write_bytes(header)
    found = describe(path, QCOW2)
    assert (found.is_dirty, found.is_corrupt) == (True, True)


def test_without_qemu_img_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qcow2, "BINARY", "qemu-img-that-is-not-there")
    with pytest.raises(CheckFailed) as caught:
        create(tmp_path / "a.qcow2", SIZE)
    assert "qemu-utils" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
