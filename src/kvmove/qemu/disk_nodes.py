"""The block nodes of a VM's disks: their names, their options, and which of them QEMU uses now.

A disk has a file node and, on it, a root node that the guest's device uses. The root node has one of two names. QEMU
starts with the first; a storage move brings in a new image under the name that is free, and frees the other when it
is over. So names never collide, however often a disk moves, and nobody has to remember which name is in use: QEMU
tells.

Invariant: both nodes of a disk get the same options whenever they are made, so that a storage move changes the file
and nothing else.

Not done here: adding and deleting nodes (`pivot`), and what lies in the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from kvmove.errors import MoveFailed
from kvmove.model.vm import DiskDefinition, Provisioning, VmDefinition
from kvmove.qemu.monitor import Monitor


class CurrentDisk(NamedTuple):
    """What a disk is on now: its root node (the one to mirror, below any filter of a mirror) and the image file."""

    node: str
    file: Path


def node_names(index: int) -> tuple[str, str]:
    """The two names that the root node of disk number `index` can have; QEMU starts with the first. (At most 31
    bytes.)"""
    return f"disk{index}", f"disk{index}-alt"


def spare_name(index: int, node: str) -> str:
    """The name of the two that `node` has not."""
    first, second = node_names(index)
    return second if node == first else first


def file_node(node: str) -> str:
    """The file node below the root node `node`."""
    return f"{node}-file"


def device_id(index: int) -> str:
    """QEMU's id of the guest's disk number `index`."""
    return f"vd{index}"


def node_options(
    node: str, disk: DiskDefinition, file: Path, *, is_device: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options (BlockdevOptions of QAPI) of the file node and of the root node `node`, in the order to add them.

    `is_device`: `file` is a block device; the disk is its beginning, and the guest sees nothing of the rest.
    """
    cache = {"direct": disk.cache == "none", "no-flush": False}
    # A discard would give back the space that a thick image is to keep. What a device does with it is its own affair.
    discard = "unmap" if is_device or disk.provisioning is Provisioning.THIN else "ignore"
    protocol = {
        "driver": "host_device" if is_device else "file",
        "node-name": file_node(node),
        "filename": str(file),
        "cache": cache,
        "discard": discard,
        # Without it QEMU syncs and drops the whole file's page cache when a destination takes over: in the downtime,
        # and for nothing, because our own writes to it were made on this host.
        "drop-cache": False,
    }
    image = {"driver": disk.format, "node-name": node, "file": file_node(node), "cache": cache, "discard": discard}
    return protocol, image | ({"size": disk.size} if is_device else {})


async def named_nodes(monitor: Monitor) -> dict[str, dict[str, Any]]:
    """All block nodes by their names, as QEMU describes them (BlockDeviceInfo of QAPI).

    :raise Unreachable: QEMU does not answer.
    """
    nodes = await monitor.execute("query-named-block-nodes")
    return {str(node["node-name"]): node for node in nodes}


async def current_disks(monitor: Monitor, definition: VmDefinition) -> dict[str, CurrentDisk]:
    """What each disk of the VM is on, by the disk's name.

    While a mirror runs, the device uses its filter. The filter has the file name of what it filters (QEMU 7.2
    block/mirror.c, bdrv_mirror_top_refresh_filename), which leads to the root node.

    :raise MoveFailed: QEMU has no such disk, or has it on a node that is not ours. :raise Unreachable: no answer.
    """
    devices = {_device(block): block.get("inserted", {}) for block in await monitor.execute("query-block")}
    nodes = await named_nodes(monitor)
    found = {}
    for index, disk in enumerate(definition.disks):
        used = devices.get(device_id(index), {})
        ours = [name for name in node_names(index) if name in nodes and nodes[name]["file"] == used.get("file")]
        if len(ours) != 1:
            raise MoveFailed(
                f"Disk {disk.name} of VM {definition.name} is on the node {used.get('node-name')}, which is not ours.",
                hint="Somebody changed the VM's disks by hand. Restart the VM.",
            )
        # With the option `size` QEMU names the root node by all of its options ("json:..."), so the file node is asked.
        below = nodes.get(file_node(ours[0]), used)
        found[disk.name] = CurrentDisk(ours[0], Path(below["file"]))
    return found


async def current_files(monitor: Monitor, definition: VmDefinition) -> dict[str, Path]:
    """The file that each disk's device uses now, by the disk's name. Raises as `current_disks` does."""
    return {name: disk.file for name, disk in (await current_disks(monitor, definition)).items()}


def _device(block: dict[str, Any]) -> str:
    """The id of the device that a line of query-block is about; its `qdev` is /machine/peripheral/ID/virtio-backend."""
    parts = str(block.get("qdev", "")).split("/")
    return parts[3] if len(parts) > 3 else ""
