"""The agent's configuration, `agent.toml`: parsed once at the start, never guessed.

name = "h1"
control = "10.0.0.1:7441"               # where the manager and other agents reach this one
manager = "https://10.0.0.9:7440"
data_port = 17450
state = "/var/lib/kvmove/agent"         # kept: VMs, journal
run = "/run/kvmove/agent"               # gone after a reboot: sockets
pki = "/var/lib/kvmove/pki/agent"       # ca.pem, cert.pem, key.pem

[[nic]]                                 # a NIC that carries moves
name = "mig0"
speed = "1Gbit"                         # only where the NIC does not tell its speed

[[datastore]]
name = "local"
path = "/srv/kvmove"
devices = ["/dev/vg0/kv*"]              # only where disks are to lie on block devices: those that may be used

[move]
forward_buffer = "64MiB"
write_deadline_ms = 2000
keep_source_seconds = 3600
streams_per_nic = 2

[load]                                  # only where this host shares its kernel with others
of = "processes"                        # count what this host's processes use, not what the machine does
cpus = 2                                # and what the host is to count as having
memory = "8GiB"
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from kvmove.errors import InvalidInput
from kvmove.model.address import Address
from kvmove.model.names import Name
from kvmove.model.strict import Strict
from kvmove.model.toml_file import read_toml
from kvmove.model.vm import Size
from kvmove.units import MIB, parse_rate

LONGEST_RUN = 45
"""Bytes of `run`'s path: a Unix socket's path has 107, and a VM's sockets lie `/vms/<uuid>/qmp.sock` below."""


def _rate(value: object) -> object:
    return parse_rate(value) if isinstance(value, str) else value


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{path} must be an absolute path")
    return path


def _short(path: Path) -> Path:
    if len(str(path).encode()) > LONGEST_RUN:
        raise ValueError(f"{path} is longer than {LONGEST_RUN} bytes; sockets below it could not be opened")
    return path


def _below_dev(pattern: str) -> str:
    parts = pattern.split("/")
    if parts[:2] != ["", "dev"] or len(parts) < 3 or any(part in ("", ".", "..", "**") for part in parts[1:]):
        raise ValueError(f"{pattern} must be /dev/ and names, which may have *, ? and [...]")
    return pattern


Rate = Annotated[int, BeforeValidator(_rate), Field(ge=0)]
"""Bytes per second; in TOML as text, `1Gbit`."""

Folder = Annotated[Path, AfterValidator(_absolute)]
DeviceGlob = Annotated[str, AfterValidator(_below_dev)]
"""Paths of block devices; `*`, `?` and `[...]` match within one part of a path."""

InterfaceName = Annotated[str, StringConstraints(pattern=r"^[^\s/:]{1,15}$")]
"""A network interface as Linux allows it."""

HttpsUrl = Annotated[str, StringConstraints(pattern=r"^https://[^\s/]+/?$")]


class NicConfig(Strict):
    """A NIC that carries moves. `speed` in bytes/s; 0 asks the NIC."""

    name: InterfaceName
    speed: Rate = 0


class DatastoreConfig(Strict):
    """A datastore as this host calls it, and the folder that it is. With `devices` its disks lie on block devices that
    these globs match; nothing else may use them."""

    name: Name
    path: Folder
    devices: tuple[DeviceGlob, ...] = ()


class MoveConfig(Strict):
    """Bounds of a move. `forward_buffer` in bytes; no mirrored write of a guest waits over `write_deadline_ms`. A copy
    of disks whose destination is out of reach waits `give_up_seconds` for it."""

    forward_buffer: Annotated[Size, Field(ge=MIB)] = 64 * MIB
    write_deadline_ms: Annotated[int, Field(ge=100, le=60_000)] = 2000
    keep_source_seconds: Annotated[int, Field(ge=0)] = 3600
    streams_per_nic: Annotated[int, Field(ge=1, le=16)] = 2
    give_up_seconds: Annotated[int, Field(ge=1, le=86_400)] = 720


class LoadConfig(Strict):
    """How the host's load is measured; see `host_load`. None: what the kernel says."""

    of: Literal["machine", "processes"] = "machine"
    cpus: Annotated[int, Field(ge=1)] | None = None
    memory: Size | None = None


class AgentConfig(Strict):
    """`state` is kept over reboots, `run` is not; `pki` holds the agent's own `ca.pem`, `cert.pem` and `key.pem`."""

    name: Name
    control: Address
    manager: HttpsUrl
    data_port: Annotated[int, Field(ge=1, le=65535)] = 17450
    state: Folder = Path("/var/lib/kvmove/agent")
    run: Annotated[Folder, AfterValidator(_short)] = Path("/run/kvmove/agent")
    pki: Folder = Path("/var/lib/kvmove/pki/agent")
    nics: Annotated[tuple[NicConfig, ...], Field(alias="nic")] = ()
    datastores: Annotated[tuple[DatastoreConfig, ...], Field(alias="datastore")] = ()
    move: MoveConfig = MoveConfig()
    load: LoadConfig = LoadConfig()

    @model_validator(mode="after")
    def _names_are_unique(self) -> "AgentConfig":
        for kind, names in (
            ("nic", [nic.name for nic in self.nics]),
            ("datastore", [store.name for store in self.datastores]),
            ("the folder of a datastore,", [str(store.path) for store in self.datastores]),
            ("a datastore's device", [glob for store in self.datastores for glob in store.devices]),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{kind} {', '.join(twice)} is listed twice")
        return self


def load_config(path: Path) -> AgentConfig:
    """The configuration in the file at `path`.

    :raise InvalidInput: with every fault of the file.
    """
    try:
        return read_toml(path, AgentConfig)
    except InvalidInput as error:
        raise InvalidInput(error.detail, hint=error.hint or f"Mend {path} and start the agent again.") from error
