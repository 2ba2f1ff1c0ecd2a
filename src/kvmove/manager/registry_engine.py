"""Opens the registry's engine that the configuration names.

Whichever it is, agents ask the manager (`registry_routes`); they never speak to etcd.
"""

from pathlib import Path

from kvmove.manager.config import EtcdSettings, RegistrySettings
from kvmove.pki.contexts import client_context_of
from kvmove.registry.etcd import EtcdRegistry
from kvmove.registry.interface import Registry
from kvmove.registry.sqlite import SqliteRegistry


def open_registry(settings: RegistrySettings, state: Path) -> Registry:
    """The engine of `settings`; SQLite's file is in `state`. An etcd that is down is no error before it is asked.

    :raise Unreachable: SQLite's file cannot be opened.
    :raise NotFound, NotAllowed: the certificates for etcd are missing or broken.
    """
    if isinstance(settings, EtcdSettings):
        tls = client_context_of(settings.ca, settings.cert, settings.key) if settings.encrypted else None
        return EtcdRegistry(settings.endpoints, settings.prefix, tls)
    return SqliteRegistry(state / "registry.db")
