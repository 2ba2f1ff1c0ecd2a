"""A virtual machine: its definition (what the operator wrote) and its status (what is seen now).

The definition says in which datastore a disk lies, never in which file: the datastore gives the path from the
VM's UUID and the disk's name, so no definition can point outside of it.
"""

import re
from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kvmove.model.names import NAME_PATTERN, Name
from kvmove.model.strict import Strict
from kvmove.units import parse_size

SECTOR = 512


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _whole_sectors(size: int) -> int:
    if size % SECTOR:
        raise ValueError(f"a disk's size must be a multiple of {SECTOR} bytes")
    return size


Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]
"""Bytes; in TOML and JSON also as text, `512MiB`."""

DiskSize = Annotated[Size, AfterValidator(_whole_sectors)]


NO_SWAP = "none"
SWAP_WITH_VM = "with-vm"
_SWAP_ON_HOST = "host:"


def _swap(value: str) -> str:
    if value in (NO_SWAP, SWAP_WITH_VM):
        return value
    if not (value.startswith(_SWAP_ON_HOST) and re.fullmatch(NAME_PATTERN, value.removeprefix(_SWAP_ON_HOST))):
        raise ValueError(f"swap is {NO_SWAP}, {SWAP_WITH_VM} or {_SWAP_ON_HOST}DATASTORE, not {value}")
    return value


Swap = Annotated[str, AfterValidator(_swap)]
"""Where the VM's memory has a swap file: `none`, `with-vm` (where its first disk is) or `host:DATASTORE`."""


class DiskFormat(StrEnum):
    """How a disk's content lies in its image."""

    RAW = "raw"
    QCOW2 = "qcow2"


class Provisioning(StrEnum):
    """Whether a disk takes only the space of its data (THIN), or all of its size from the start (THICK)."""

    THIN = "thin"
    THICK = "thick"


class DiskDefinition(Strict):
    """A disk. `cache` is QEMU's: `none` is direct I/O, `writeback` goes through the page cache."""

    name: Name
    datastore: Name
    size: DiskSize
    format: DiskFormat = DiskFormat.RAW
    provisioning: Provisioning = Provisioning.THIN
    cache: Literal["none", "writeback"] = "none"


class NicDefinition(Strict):
    """A virtio network card on a bridge of the host."""

    name: Name
    bridge: Name
    mac: Annotated[str, Field(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]


class BootDefinition(Strict):
    """Direct kernel boot; without it the VM boots from its first disk."""

    kernel: Annotated[str, Field(pattern=r"^/")]
    initrd: Annotated[str, Field(pattern=r"^/")] | None = None
    command_line: str = ""


class VmDefinition(Strict):
    """What the operator wrote. `memory` is what was asked for; see `qemu.command_line` for what QEMU gets. With
    `guest_agent` the guest has a serial port on which an agent in it may be spoken to."""

    name: Name
    uuid: UUID
    memory: Size
    vcpus: Annotated[int, Field(ge=1, le=255)] = 1
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    disks: Annotated[tuple[DiskDefinition, ...], Field(max_length=16)] = ()
    nics: Annotated[tuple[NicDefinition, ...], Field(max_length=8)] = ()
    boot: BootDefinition | None = None
    swap: Swap = NO_SWAP
    guest_agent: bool = False

    @property
    def swap_datastore(self) -> str | None:
        """The datastore that its swap file is in, on the host that runs it by this definition; None: no swap file."""
        if self.swap == NO_SWAP:
            return None
        return self.disks[0].datastore if self.swap == SWAP_WITH_VM else self.swap.removeprefix(_SWAP_ON_HOST)

    @model_validator(mode="after")
    def _swap_has_its_place(self) -> Self:
        if self.swap == SWAP_WITH_VM and not self.disks:
            raise ValueError(f"swap {SWAP_WITH_VM} is where the first disk is, and there is no disk")
        return self


class VmState(StrEnum):
    """What QEMU does with the VM on this host."""

    OFF = "off"
    RUNNING = "running"
    PAUSED = "paused"
    INCOMING = "incoming"  # a destination that waits for memory
    CRASHED = "crashed"  # should run, and its QEMU is gone
    UNKNOWN = "unknown"  # its host does not answer, or the QEMU on it does not


class Power(StrEnum):
    """How a VM moves: as it was found, so it is afterwards."""

    RUNNING = "running"
    PAUSED = "paused"
    OFF = "off"


class VmStatus(Strict):
    """A VM as its host's agent sees it. `epoch` is the ownership under which this host runs it."""

    definition: VmDefinition
    host: Name
    state: VmState
    epoch: int = 0
    pid: int | None = None
    accelerator: str = ""
    move_id: str | None = None


class VmPlacement(Strict):
    """What an operator asks for when defining a VM: what it is, and on which host."""

    host: Name
    definition: VmDefinition
