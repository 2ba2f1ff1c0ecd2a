"""The command line of a VM's QEMU, from its definition. Pure.

Invariant: the same definition gives the same machine on every host, device by device and address by address, so that
a migration stream fits; only paths and interface names differ, and a destination ends with `-incoming defer`.
Everything that could make it differ is pinned: machine type, CPU model, PCI addresses, no default devices, no
network boot ROM.

`-S` is always there: a QEMU that somebody started, and whose starter died, runs no guest. `-no-shutdown` is there
because a guest that powers off must not end QEMU in the middle of a move, and because a QEMU that is gone then
always means a crash. All values go in as JSON or with their commas doubled: no name can add an option.

Not done here: creating the files and tap devices that are named.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from kvmove.model.vm import BootDefinition, DiskDefinition, NicDefinition, VmDefinition
from kvmove.qemu.accelerator import BINARY, Accelerator, aligned_memory, emulated_memory
from kvmove.qemu.disk_nodes import device_id, node_names, node_options
from kvmove.units import KIB

MACHINE = "pc-q35-7.2"
"""The oldest version that we support: newer QEMUs know it, so they can exchange guests with it."""

CPU_MODEL = "Nehalem"
"""The x86-64-v2 baseline. Every KVM host and the emulator offer it; `host` would tie a guest to one kind of CPU."""

_FIRST_DISK_SLOT = 0x03
_FIRST_NIC_SLOT = 0x13  # 16 disks later
_AGENT_SLOT = 0x1B  # 8 NICs later
_RAM = "pc.ram"  # what QEMU calls this machine's RAM block by default
_SERIAL_LENGTH = 20  # virtio-blk's limit
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class VmPaths(NamedTuple):
    """Where a VM's QEMU keeps its things on this host. Socket paths must stay under 108 bytes."""

    folder: Path
    """Runtime folder of this VM (mode 0700): sockets and pidfile; gone after a reboot."""

    logs: Path
    """Folder of `serial.log` and `qemu.log`; kept."""

    @property
    def monitor(self) -> Path:
        return self.folder / "qmp.sock"

    @property
    def oob_monitor(self) -> Path:
        return self.folder / "oob.sock"

    @property
    def agent(self) -> Path:
        """Socket of the serial port on which an agent in the guest listens."""
        return self.folder / "agent.sock"

    @property
    def pidfile(self) -> Path:
        return self.folder / "qemu.pid"

    @property
    def serial_log(self) -> Path:
        return self.logs / "serial.log"

    @property
    def qemu_log(self) -> Path:
        return self.logs / "qemu.log"


class VmResources(NamedTuple):
    """What this host gives the VM: a file per disk name, a tap device per NIC name, and a folder for its swap file.
    `devices` names the disks whose file is a block device."""

    disks: Mapping[str, Path]
    taps: Mapping[str, str]
    swap: Path | None = None
    devices: frozenset[str] = frozenset()


def guest_memory(definition: VmDefinition, accelerator: Accelerator) -> int:
    """The RAM that QEMU gives the guest, in bytes; see `accelerator.emulated_memory`."""
    return emulated_memory(definition.memory) if accelerator == "tcg" else aligned_memory(definition.memory)


def command_line(
    definition: VmDefinition,
    accelerator: Accelerator,
    paths: VmPaths,
    resources: VmResources,
    *,
    incoming: bool = False,
) -> list[str]:
    """The argument list of QEMU, program first. With `incoming` it waits for `migrate-incoming`.

    :raise KeyError: `resources` lacks a disk or NIC of the definition.
    """
    arguments = [BINARY, "-name", f"guest={_plain(definition.name)},debug-threads=on", "-uuid", str(definition.uuid)]
    arguments += ["-nodefaults", "-no-user-config", "-display", "none", "-sandbox", _SANDBOX]
    arguments += ["-msg", "timestamp=on", "-pidfile", str(paths.pidfile), "-S", "-no-shutdown"]
    arguments += ["-machine", f"{MACHINE},dump-guest-core=off", "-accel", accelerator, "-cpu", CPU_MODEL]
    arguments += ["-smp", str(definition.vcpus), "-rtc", "base=utc"]
    arguments += _memory(guest_memory(definition, accelerator), resources.swap)
    arguments += _monitor("qmp", paths.monitor) + _monitor("oob", paths.oob_monitor)
    arguments += [
        "-chardev",
        f"file,id=serial0,path={_plain(paths.serial_log)},append=on",
        "-serial",
        "chardev:serial0",
    ]
    arguments += _boot(definition.boot) if definition.boot else []
    for index, disk in enumerate(definition.disks):
        arguments += _disk(index, disk, resources, bootable=definition.boot is None)
    for index, nic in enumerate(definition.nics):
        arguments += _nic(index, nic, resources.taps[nic.name])
    arguments += _agent(paths.agent) if definition.guest_agent else []
    return [*arguments, "-incoming", "defer"] if incoming else arguments


def belongs_to(arguments: list[str], vm: UUID, paths: VmPaths) -> bool:
    """Whether `arguments`, those of a running process, are of a QEMU that was made here for this VM."""

    def follows(option: str, value: str) -> bool:
        return any(pair == (option, value) for pair in itertools.pairwise(arguments))

    return follows("-uuid", str(vm)) and follows("-pidfile", str(paths.pidfile))


def _plain(value: str | Path) -> str:
    """A value for QEMU's key=value options, where a comma ends a value and two are one."""
    return str(value).replace(",", ",,")


def _memory(size: int, swap: Path | None) -> list[str]:
    """RAM of `size` bytes. With the folder `swap` its pages belong to a file there, to which the kernel may write them.

    QEMU unlinks the file as soon as it has made it (softmmu/physmem.c, file_ram_open, where mem-path is a folder). The
    object's id and the last property give the RAM block the name that it has without a file (hw/core/machine.c,
    create_default_memdev), so that QEMUs with and without one take memory from each other.
    """
    arguments = ["-m", f"size={size // KIB}k"]
    if swap is None:
        return arguments
    memory = {
        "qom-type": "memory-backend-file",
        "id": _RAM,
        "mem-path": str(swap),
        "size": size,
        "share": True,  # a private mapping's pages would go to the host's swap
        "x-use-canonical-path-for-ramblock-id": False,
    }
    return [*arguments, "-object", _json(memory), "-machine", f"memory-backend={_RAM}"]


def _monitor(name: str, path: Path) -> list[str]:
    socket = f"socket,id={name},path={_plain(path)},server=on,wait=off"
    return ["-chardev", socket, "-mon", f"chardev={name},mode=control"]


def _boot(boot: BootDefinition) -> list[str]:
    initrd = ["-initrd", boot.initrd] if boot.initrd else []
    return ["-kernel", boot.kernel, *initrd, "-append", boot.command_line]


def _disk(index: int, disk: DiskDefinition, resources: VmResources, *, bootable: bool) -> list[str]:
    node, _ = node_names(index)
    is_device = disk.name in resources.devices
    protocol, image = node_options(node, disk, resources.disks[disk.name], is_device=is_device)
    device: dict[str, Any] = {
        "driver": "virtio-blk-pci",
        "id": device_id(index),
        "drive": node,
        "bus": "pcie.0",
        "addr": f"{_FIRST_DISK_SLOT + index:#x}",
        "serial": disk.name[:_SERIAL_LENGTH],
    }
    if bootable and index == 0:
        device["bootindex"] = 0
    return ["-blockdev", _json(protocol), "-blockdev", _json(image), "-device", _json(device)]


def _nic(index: int, nic: NicDefinition, tap: str) -> list[str]:
    device = {
        "driver": "virtio-net-pci",
        "id": f"nic{index}",
        "netdev": f"net{index}",
        "mac": nic.mac,
        "bus": "pcie.0",
        "addr": f"{_FIRST_NIC_SLOT + index:#x}",
        "romfile": "",  # a boot ROM is a piece of guest memory whose size changes with the host's packages
    }
    netdev = f"tap,id=net{index},ifname={_plain(tap)},script=no,downscript=no"
    return ["-netdev", netdev, "-device", _json(device)]


def _agent(socket: Path) -> list[str]:
    """The port has the name by which the agent (qemu-ga) looks for it."""
    bus = {"driver": "virtio-serial-pci", "id": "serial", "bus": "pcie.0", "addr": f"{_AGENT_SLOT:#x}"}
    port = {
        "driver": "virtserialport",
        "id": "agent-port",
        "bus": "serial.0",
        "nr": 1,
        "chardev": "agent",
        "name": "org.qemu.guest_agent.0",
    }
    chardev = f"socket,id=agent,path={_plain(socket)},server=on,wait=off"
    return ["-chardev", chardev, "-device", _json(bus), "-device", _json(port)]


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
