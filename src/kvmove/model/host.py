"""A host with its migration NICs and datastores, as its agent reports it."""

from uuid import UUID

from kvmove.model.load import HostLoad
from kvmove.model.names import Name
from kvmove.model.placement import HostMaintenance
from kvmove.model.strict import Strict


class MigrationNic(Strict):
    """A NIC that carries moves. `address` is IPv4 with prefix length (`10.10.0.1/24`); `speed` bytes/s, 0 unknown."""

    name: str
    address: str
    speed: int = 0


class DatastoreInfo(Strict):
    """A datastore: a directory with an identity file. `id` tells whether two hosts see the same one. Bytes.

    `devices` are the sizes of the free block devices of a datastore whose disks lie on such, and `size` and `free` sums
    then; None for any other.
    """

    name: Name
    id: UUID
    path: str
    size: int
    free: int
    devices: tuple[int, ...] | None = None


class HostDatastore(DatastoreInfo):
    """A datastore together with the host that has it, as the manager lists them."""

    host: Name


class HostInfo(Strict):
    """A host as its agent reports it. `control` is the agent's address (`host:port`). Memory in bytes."""

    name: Name
    control: str
    data_port: int
    version: str
    qemu_version: str
    accelerator: str
    memory_total: int
    memory_free: int
    nics: tuple[MigrationNic, ...]
    datastores: tuple[DatastoreInfo, ...]
    bridges: tuple[str, ...] = ()
    load: HostLoad | None = None


class HostStatus(Strict):
    """A host as the manager lists it: `info` is the last report, `reachable` whether the agent answers now.
    `maintenance` is set while it takes no VM; `powered_off` if the manager powered it off."""

    name: Name
    control: str
    reachable: bool
    info: HostInfo | None = None
    reason: str = ""
    maintenance: HostMaintenance | None = None
    powered_off: bool = False
