"""The manager's configuration, `manager.toml`: parsed once at the start, never guessed.

listen = "10.0.0.1:7440"
socket = "/run/kvmove/manager.sock"
state = "/var/lib/kvmove/manager"
pki = "/var/lib/kvmove/pki/manager"
authority = "/var/lib/kvmove/pki/authority"
certificate_days = 90

[[host]]
name = "h1"
control = "10.0.0.1:7441"

[registry]
engine = "etcd"
endpoints = ["https://10.0.0.11:2379", "https://10.0.0.12:2379", "https://10.0.0.13:2379"]

[admission]
host = 8
"""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from yarl import URL

from kvmove.admission.costs import Limits
from kvmove.manager.balance_settings import BalanceSettings
from kvmove.model.address import Address
from kvmove.model.move import HostRef
from kvmove.model.placement import AUTO
from kvmove.model.strict import Strict
from kvmove.model.toml_file import read_toml


def _endpoint(text: str) -> str:
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host or url != url.origin():
        raise ValueError(f"{text!r} is no address of etcd; write for example https://10.0.0.11:2379")
    if url.scheme == "http" and not _is_loopback(url.host):
        raise ValueError(f"{text!r} would go over the network without encryption; use https")
    return text


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class SqliteSettings(Strict):
    """The registry is a file in the manager's state folder."""

    engine: Literal["sqlite"] = "sqlite"


class EtcdSettings(Strict):
    """The registry is the etcd cluster with these members. `ca`, `cert` and `key` are for https endpoints."""

    engine: Literal["etcd"]
    endpoints: Annotated[tuple[Annotated[str, AfterValidator(_endpoint)], ...], Field(min_length=1)]
    prefix: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._-]+)+$")] = "/kvmove"
    ca: Path = Path("/var/lib/kvmove/pki/etcd/ca.pem")
    cert: Path = Path("/var/lib/kvmove/pki/etcd/cert.pem")
    key: Path = Path("/var/lib/kvmove/pki/etcd/key.pem")

    @property
    def encrypted(self) -> bool:
        """Whether an endpoint is asked over TLS."""
        return any(endpoint.startswith("https:") for endpoint in self.endpoints)


RegistrySettings = Annotated[SqliteSettings | EtcdSettings, Field(discriminator="engine")]


class ManagerConfig(Strict):
    """`state` holds the tasks, users and SQLite's registry, `pki` the manager's own `ca.pem`, `cert.pem` and `key.pem`.

    `authority` holds what signs certificates, if that is on this machine; they are good for `certificate_days`.
    """

    listen: Address
    socket: Path = Path("/run/kvmove/manager.sock")
    state: Path = Path("/var/lib/kvmove/manager")
    pki: Path = Path("/var/lib/kvmove/pki/manager")
    authority: Path = Path("/var/lib/kvmove/pki/authority")
    certificate_days: Annotated[int, Field(ge=1, le=3650)] = 90
    hosts: Annotated[tuple[HostRef, ...], Field(alias="host")] = ()
    registry: RegistrySettings = SqliteSettings()
    admission: Limits = Limits()
    balance: BalanceSettings = BalanceSettings()

    @model_validator(mode="after")
    def _names_are_unique(self) -> "ManagerConfig":
        names = [host.name for host in self.hosts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"host {', '.join(twice)} is listed twice")
        if AUTO in names:
            raise ValueError(f"no host may be called {AUTO!r}: that word lets the manager choose one")
        return self


def load_config(path: Path) -> ManagerConfig:
    """The configuration in the file at `path`.

    :raise InvalidInput: with every fault of the file.
    """
    return read_toml(path, ManagerConfig)
