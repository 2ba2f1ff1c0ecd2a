"""Which node and file a disk is on, from what QEMU answers; and the names that alternate."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from kvmove.errors import MoveFailed
from kvmove.model.vm import DiskDefinition, VmDefinition
from kvmove.qemu.disk_nodes import CurrentDisk, current_disks, current_files, file_node, node_names, spare_name
from kvmove.qemu.monitor import Monitor
from kvmove.units import GIB, MIB
from tests.support.fake_qmp import fake_qmp

VM = VmDefinition(
    name="web",
    uuid=UUID("11111111-1111-4111-8111-111111111111"),
    memory=GIB,
    disks=tuple(DiskDefinition(name=name, datastore="ds", size=MIB) for name in ("root", "data")),
)


def device(number: int, node: str, file: str) -> dict[str, Any]:
    return {
        "qdev": f"/machine/peripheral/vd{number}/virtio-backend",
        "inserted": {"node-name": node, "file": file},
    }


def node(name: str, file: str) -> dict[str, Any]:
    return {"node-name": name, "file": file}


async def look(folder: Path, devices: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> dict[str, CurrentDisk]:
    async with fake_qmp(folder / "qmp") as qemu:
        qemu.answers["query-block"] = {"return": devices}
        qemu.answers["query-named-block-nodes"] = {"return": nodes}
        monitor = await Monitor.connect(folder / "qmp")
        try:
            files = await current_files(monitor, VM)
            disks = await current_disks(monitor, VM)
        finally:
            await monitor.close()
        assert files == {name: disk.file for name, disk in disks.items()}
        return disks


@pytest.mark.parametrize("index", [0, 15])
def test_the_two_names_of_a_disk_alternate_and_fit_into_qemu(index: int) -> None:
    first, second = node_names(index)
    assert (spare_name(index, first), spare_name(index, second)) == (second, first)
    assert len({first, second, file_node(first), file_node(second)}) == 4
    assert max(len(file_node(name)) for name in (first, second)) <= 31


async def test_a_disk_is_on_what_its_device_uses_whatever_else_is_there(tmp_path: Path) -> None:
    devices = [{"device": "cd", "qdev": ""}, device(1, "disk1-alt", "/b/data"), device(0, "disk0", "/a/root")]
    nodes = [node("disk0", "/a/root"), node("disk0-alt", "/b/root"), node("disk0-file", "/a/root")]
    nodes += [node("disk1", "/a/data"), node("disk1-alt", "/b/data"), node("disk1-alt-file", "/b/data")]
    assert await look(tmp_path, devices, nodes) == {
        "root": CurrentDisk("disk0", Path("/a/root")),
        "data": CurrentDisk("disk1-alt", Path("/b/data")),
    }


async def test_a_node_that_qemu_names_by_its_options_is_known_by_its_file_node(tmp_path: Path) -> None:
    name = 'json:{"size": 8388608, "driver": "raw", "file": {"driver": "host_device", "filename": "/dev/kv1"}}'
    devices = [device(0, "disk0", name), device(1, "disk1", "/b/data")]
    nodes = [node("disk0", name), node("disk0-file", "/dev/kv1"), node("disk1", "/b/data")]
    found = await look(tmp_path, devices, nodes)
    assert found["root"] == CurrentDisk("disk0", Path("/dev/kv1"))


async def test_a_mirrors_filter_is_seen_through(tmp_path: Path) -> None:
    devices = [device(0, "mirror-filter0", "/b/root"), device(1, "pivot-filter1", "/a/data")]
    nodes = [node("mirror-filter0", "/b/root"), node("disk0-alt", "/b/root")]
    nodes += [node("disk1", "/a/data"), node("disk1-alt", "/b/data"), node("pivot-filter1", "/a/data")]
    found = await look(tmp_path, devices, nodes)
    assert [disk.node for disk in found.values()] == ["disk0-alt", "disk1"]


@pytest.mark.parametrize("devices", [[], [device(0, "foreign", "/x")], [{"qdev": "/machine/peripheral/vd0/x"}]])
async def test_a_disk_on_no_node_of_ours_is_not_guessed(tmp_path: Path, devices: list[dict[str, Any]]) -> None:
    with pytest.raises(MoveFailed, match="root"):
        await look(tmp_path, devices, [node("disk0", "/a/root"), node("foreign", "/x")])
