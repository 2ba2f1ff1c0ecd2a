"""Opens the registry's engine that the configuration names.

Whichever it is, agents ask the manager (`registry_routes`); they never speak to etcd.
"""

import ssl
from pathlib import Path

from kvmove.manager.config import EtcdSettings, RegistrySettings
from kvmove.pki.contexts import client_context_of
from kvmove.registry.etcd import EtcdRegistry
from kvmove.registry.etcd_slots import EtcdSlots
from kvmove.registry.leased_slots import LeasedSlots
from kvmove.registry.sqlite import SqliteRegistry, SqliteSlots

Engine = EtcdRegistry | SqliteRegistry
SQLITE_FILE = "registry.db"


def open_registry(settings: RegistrySettings, state: Path) -> Engine:
    """The engine of `settings`; SQLite's file is in `state`. An etcd that is down is no error before it is asked.

    :raise Unreachable: SQLite's file cannot be opened.
    :raise NotFound, NotAllowed: the certificates for etcd are missing or broken.
    """
    if isinstance(settings, EtcdSettings):
        return open_etcd(settings)
    return SqliteRegistry(state / SQLITE_FILE)


def open_etcd(settings: EtcdSettings) -> EtcdRegistry:
    """:raise NotFound, NotAllowed: the certificates are missing or broken."""
    return EtcdRegistry(settings.endpoints, settings.prefix, _tls(settings))


def open_slots(settings: RegistrySettings, state: Path) -> LeasedSlots:
    """This manager's admission slots, in the same engine; raises as `open_registry`."""
    if isinstance(settings, EtcdSettings):
        return LeasedSlots(EtcdSlots(settings.endpoints, settings.prefix, _tls(settings)))
    return LeasedSlots(SqliteSlots(state / SQLITE_FILE))


def _tls(settings: EtcdSettings) -> ssl.SSLContext | None:
    return client_context_of(settings.ca, settings.cert, settings.key) if settings.encrypted else None
