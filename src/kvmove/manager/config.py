"""The manager's configuration, `manager.toml`: parsed once at the start, never guessed.

listen = "10.0.0.1:7440"
socket = "/run/kvmove/manager.sock"
state = "/var/lib/kvmove/manager"
pki = "/var/lib/kvmove/pki/manager"

[[host]]
name = "h1"
control = "10.0.0.1:7441"
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from kvmove.model.address import Address
from kvmove.model.move import HostRef
from kvmove.model.strict import Strict
from kvmove.model.toml_file import read_toml


class ManagerConfig(Strict):
    """`state` holds the registry and the tasks, `pki` the manager's own `ca.pem`, `cert.pem` and `key.pem`."""

    listen: Address
    socket: Path = Path("/run/kvmove/manager.sock")
    state: Path = Path("/var/lib/kvmove/manager")
    pki: Path = Path("/var/lib/kvmove/pki/manager")
    hosts: Annotated[tuple[HostRef, ...], Field(alias="host")] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> "ManagerConfig":
        names = [host.name for host in self.hosts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"host {', '.join(twice)} is listed twice")
        return self


def load_config(path: Path) -> ManagerConfig:
    """The configuration in the file at `path`.

    :raise InvalidInput: with every fault of the file.
    """
    return read_toml(path, ManagerConfig)
