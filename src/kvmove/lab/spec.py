"""What a lab is to be: its hosts, their migration NICs and datastores. Parsed once, at the edge."""

import os
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from kvmove.lab.folders import WORLD
from kvmove.model.strict import Strict
from kvmove.units import GIB, MIB

LOCAL = "local"
"""The name of each host's own datastore."""

SECOND = "second"
"""The name of each host's second datastore, in the same file system as the first."""

SHARED = "shared"
"""The name of the datastore that all hosts of a lab see."""

BLOCK = "block"
"""The name of each host's datastore of block devices."""

BLOCK_SHARED = "block-shared"
"""The name of the datastore of block devices that all hosts of a lab see."""

LabName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,14}[a-z0-9])?$")]
"""16 characters: it becomes part of socket paths, of which Unix allows 107 bytes."""

HostName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{0,11}$")]


class DatastoreSpec(Strict):
    """Each host's own datastore: `loop` is a file system of its own in a sparse file of `size` bytes, XFS with reflinks
    or ext4; `folder` a folder of this machine."""

    kind: Literal["loop", "folder"] = "loop"
    file_system: Literal["xfs", "ext4"] = "xfs"
    size: int = Field(default=16 * GIB, ge=GIB // 2)


class LabSpec(Strict):
    """`nics` has one rate in bytes/s per migration NIC of every host; 0 is unshaped.

    With `shared` all hosts see one more datastore: a folder of this machine. With `block` each host has a datastore of
    so many block devices of `block_size` bytes, and with both all see one more of those. With `registry` "etcd" an
    etcd of `etcd_members`, beside the manager, keeps the ownership. `host_memory` is what each host says it has, for
    balancing; 0: what the machine has. `rtt_ms` is the round trip between any two hosts, and between them and the
    manager; guests' network is not delayed. `bare` leaves out agents, manager and certificates:
    namespaces, networks and datastores alone.
    """

    name: LabName = "lab"
    hosts: Annotated[tuple[HostName, ...], Field(min_length=1, max_length=16)] = ("h1", "h2")
    nics: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=8)] = (125_000_000, 125_000_000)
    datastore: DatastoreSpec = DatastoreSpec()
    shared: bool = False
    block: int = Field(default=0, ge=0, le=16)
    block_size: int = Field(default=GIB, ge=MIB)
    registry: Literal["sqlite", "etcd"] = "sqlite"
    etcd_members: int = Field(default=1, ge=1, le=5)
    host_memory: int = Field(default=0, ge=0)
    rtt_ms: int = Field(default=0, ge=0, le=1000)
    bare: bool = False

    @field_validator("hosts")
    @classmethod
    def _distinct(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(hosts)) != len(hosts) or WORLD in hosts:
            raise ValueError(f"hosts need names of their own, and none may be called {WORLD!r}")
        return hosts


def passing(purpose: str, spec: LabSpec) -> LabSpec:
    """`spec` under a name of this process's own, for a run that passes: several may run at once."""
    return spec.model_copy(update={"name": f"{purpose}-{os.getpid()}"})
