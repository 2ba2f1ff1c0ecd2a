"""A lab's disk in an image of any format: what was put in is what the judge gets. Real images, a real loop device."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmove.errors import KvmoveError
from kvmove.lab.disk_image import DiskImage
from kvmove.lab.folders import LabFolders
from kvmove.lab.guest.image import build
from kvmove.lab.guest.prefill import Prefill, prefill
from kvmove.lab.lab_host import LabHost
from kvmove.lab.spec import LabSpec
from kvmove.model.vm import DiskFormat
from kvmove.units import MIB

pytestmark = pytest.mark.lab

GUEST = Path(__file__).parents[2] / "build" / "guest"
SIZE = 16 * MIB
DATA = Prefill(5 * MIB, 7)


@pytest.fixture(scope="module")
def tool() -> Path:
    return build(GUEST).prefill_tool


@pytest.fixture
def wanted(tmp_path: Path, tool: Path) -> bytes:
    prefill(tmp_path / "wanted", SIZE, DATA, tool)
    return (tmp_path / "wanted").read_bytes()


def image(path: Path, form: DiskFormat) -> DiskImage:
    """An image on this machine, which is a host of its own."""
    host = LabHost("h1", 0, LabFolders("none"), LabSpec())
    host.init = os.getpid()
    return DiskImage(host, path, form, SIZE, path.parent)


def content(disk: DiskImage) -> bytes:
    with disk.content() as raw:
        return raw.read_bytes()


def qcow2(folder: Path) -> DiskImage:
    path = folder / "root.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(SIZE)], check=True)
    return image(path, DiskFormat.QCOW2)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """Larger than the disk, and full of what somebody left there."""
    backing = tmp_path / "device.img"
    backing.write_bytes(b"x" * 2 * SIZE)
    attach = ["losetup", "--find", "--show", str(backing)]
    path = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
    yield Path(path)
    subprocess.run(["losetup", "--detach", path], check=True)


def test_a_raw_file_is_its_own_content(tmp_path: Path, tool: Path, wanted: bytes) -> None:
    disk = image(tmp_path / "root.raw", DiskFormat.RAW)
    disk.path.touch()
    disk.fill(DATA, tool)
    assert content(disk) == disk.path.read_bytes() == wanted
    assert not disk.has_base()


def test_a_qcow2_image_is_read_through(tmp_path: Path, tool: Path, wanted: bytes) -> None:
    disk = qcow2(tmp_path)
    disk.fill(DATA, tool)
    assert content(disk) == wanted
    assert disk.path.read_bytes() != wanted
    assert not disk.has_base()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [], "nothing passing stays"


def test_an_image_on_a_base_is_read_with_it(tmp_path: Path, tool: Path, wanted: bytes) -> None:
    disk = qcow2(tmp_path)
    disk.fill(DATA, tool)
    disk.put_on_base()
    assert disk.has_base()
    assert disk.path.stat().st_size < MIB, "it is empty itself"
    assert content(disk) == wanted


def test_of_a_device_the_disk_alone_is_read(tmp_path: Path, tool: Path, wanted: bytes, device: Path) -> None:
    disk = DiskImage(image(device, DiskFormat.RAW).host, device, DiskFormat.RAW, SIZE, tmp_path)
    disk.fill(DATA, tool)
    assert content(disk) == wanted
    with device.open("rb") as whole:
        assert whole.read()[SIZE:] == b"x" * SIZE, "what lies behind the disk is not touched"


def test_an_image_of_another_format_is_not_judged(tmp_path: Path, tool: Path) -> None:
    disk = image(tmp_path / "root.qcow2", DiskFormat.QCOW2)
    disk.path.write_bytes(bytes(SIZE))
    with pytest.raises(KvmoveError, match="qcow2"), disk.content():
        raise AssertionError("there is no content")
