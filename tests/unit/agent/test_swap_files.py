"""Where a VM's swap file goes on a host, and that its space is taken at once."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import ValidationError

from kvmove.agent.swap_files import SwapFiles, take_space
from kvmove.disk.datastore import Datastore
from kvmove.disk.errors import DiskError
from kvmove.errors import CheckFailed, MoveFailed, NotFound
from kvmove.model.vm import DiskDefinition, VmDefinition
from kvmove.units import MIB

TOO_MUCH = 2**60


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, Datastore]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return {name: Datastore.create(name, tmp_path / name) for name in ("one", "two")}


def vm(swap: str, *disks: str, memory: int = MIB) -> VmDefinition:
    made = tuple(DiskDefinition(name=f"d{n}", datastore=store, size=MIB) for n, store in enumerate(disks))
    return VmDefinition(name="web", uuid=UUID(int=1), memory=memory, disks=made, swap=swap)


@pytest.mark.parametrize(
    ("swap", "disks", "store"),
    [("with-vm", ("two", "one"), "two"), ("host:one", ("two",), "one"), ("host:two", (), "two")],
)
def test_the_folder_is_made_in_the_datastore_that_is_meant(
    stores: dict[str, Datastore], swap: str, disks: tuple[str, ...], store: str
) -> None:
    for _ in range(2):
        folder = SwapFiles(stores).folder(vm(swap, *disks))
        assert folder == stores[store].path / ".kvmove-swap"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stores[store].vms() == []


def test_without_a_swap_file_no_folder_is_made(stores: dict[str, Datastore]) -> None:
    assert SwapFiles(stores).folder(vm("none", "one")) is None
    assert not (stores["one"].path / ".kvmove-swap").exists()


def test_an_unknown_datastore_and_a_full_one_are_refused_and_nothing_is_made(stores: dict[str, Datastore]) -> None:
    with pytest.raises(NotFound, match="no datastore three for the swap file of VM web; it has one, two"):
        SwapFiles(stores).folder(vm("host:three"))
    with pytest.raises(CheckFailed, match="the swap file of VM web needs"):
        SwapFiles(stores).folder(vm("host:one", memory=TOO_MUCH))
    assert not (stores["one"].path / ".kvmove-swap").exists()


def test_a_link_where_the_folder_should_be_is_refused(stores: dict[str, Datastore], tmp_path: Path) -> None:
    (stores["one"].path / ".kvmove-swap").symlink_to(tmp_path)
    with pytest.raises(DiskError):
        SwapFiles(stores).folder(vm("host:one"))


@pytest.mark.parametrize("swap", ["disk", "host:", "host:../x", "host:a/b", "host", ""])
def test_any_other_word_is_refused(swap: str) -> None:
    with pytest.raises(ValidationError, match="swap is none, with-vm or host:DATASTORE"):
        vm(swap, "one")


def test_with_the_vm_needs_a_disk() -> None:
    with pytest.raises(ValidationError, match="there is no disk"):
        vm("with-vm")


@pytest.fixture
def unnamed(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a file of 64 MiB without data and without a name in `real`, which `link` leads to."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    file = tmp_path / "real" / "file"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
    file.unlink()
    os.truncate(descriptor, 64 * MIB)
    yield descriptor
    os.close(descriptor)


def test_all_space_of_a_file_without_a_name_is_taken(unnamed: int, tmp_path: Path) -> None:
    assert os.fstat(unnamed).st_blocks == 0
    take_space(os.getpid(), tmp_path / "link")
    assert os.fstat(unnamed).st_blocks * 512 >= 64 * MIB


def test_no_space_and_no_file_are_told(unnamed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(MoveFailed, match="has no swap file in"):
        take_space(os.getpid(), tmp_path / "other")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CheckFailed, match="no room for the swap file"):
        take_space(os.getpid(), tmp_path / "real")
