"""How busy a host is, as its agent measured it between two of the manager's questions."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from kvmove.model.names import Name
from kvmove.model.strict import Strict

Share = Annotated[float, Field(ge=0, le=1)]
"""Of one: 0 is none, 1 is all."""


class VmLoad(Strict):
    """One VM's QEMU: `cpu` in cores that it kept busy, `memory` in bytes that it holds."""

    uuid: UUID
    cpu: float = 0.0
    memory: int = 0


class DatastoreLoad(Strict):
    """`write_ms` is the mean time of one write to its device; None: nothing was written, or it has no device."""

    name: Name
    write_ms: float | None = None


class HostLoad(Strict):
    """Bytes, and shares of one. Pressure is the share of the last ten seconds in which a task waited for the resource
    (Linux's PSI, `some avg10`); 0 where the kernel does not tell."""

    cpus: Annotated[int, Field(ge=1)]
    cpu_used: Share = 0.0
    memory_total: int
    memory_used: int
    cpu_pressure: Share = 0.0
    memory_pressure: Share = 0.0
    io_pressure: Share = 0.0
    vms: tuple[VmLoad, ...] = ()
    datastores: tuple[DatastoreLoad, ...] = ()
