"""The storage daemon's arguments: no name can add an option, and the image is opened as the disk says."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from kvmove.model.vm import DiskDefinition, DiskFormat
from kvmove.qemu.storage_daemon import command_line


def disk(name: str = "root", **more: object) -> DiskDefinition:
    return DiskDefinition.model_validate({"name": name, "datastore": "ds", "size": 512, **more})


def values(arguments: list[str], option: str) -> list[dict[str, object]]:
    return [json.loads(value) for key, value in pairwise(arguments) if key == option]


@pytest.mark.parametrize("writable", [True, False])
def test_an_image_is_opened_as_its_disk_says(writable: bool) -> None:
    qcow2 = disk(format=DiskFormat.QCOW2, cache="writeback")
    arguments = command_line(qcow2, Path("/ds/a,b=c.qcow2"), Path("/run/a,b/s"), writable=writable)
    file, image = values(arguments, "--blockdev")
    assert (file["filename"], image["driver"]) == ("/ds/a,b=c.qcow2", "qcow2")
    for node in (file, image):
        assert node["cache"] == {"direct": False, "no-flush": False}
        assert (node["discard"], node["read-only"]) == ("unmap", not writable)
        assert "locking" not in node
    assert values(arguments, "--nbd-server") == [{"addr": {"type": "unix", "path": "/run/a,b/s"}}]
    (export,) = values(arguments, "--export")
    assert (export["name"], export["writable"], export["allocation-depth"]) == ("root", writable, True)


def test_direct_io_is_the_disks() -> None:
    arguments = command_line(disk(cache="none"), Path("/ds/a.raw"), Path("/run/s"), writable=True)
    file, image = values(arguments, "--blockdev")
    assert file["cache"] == image["cache"] == {"direct": True, "no-flush": False}
    assert image["driver"] == "raw"
