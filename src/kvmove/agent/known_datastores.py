"""The datastores of this host's configuration, also while one of them is not mounted.

    <state>/datastores/<name>       the identity that the datastore of that name had

An agent that is started again while a storage is away has guests to look after all the same. Every use of such a
datastore fails, until its file system is mounted again; another one that lies there then is not taken for it.

Invariant: a datastore that this agent has never seen is an error of the configuration, and told at the start.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from kvmove.agent.config import DatastoreConfig
from kvmove.disk.datastore import Datastore
from kvmove.errors import NotFound

log = logging.getLogger(__name__)


def open_datastores(configured: Iterable[DatastoreConfig], state: Path) -> dict[str, Datastore]:
    """By their names.

    :raise NotFound: one is not there and never was. :raise InvalidInput: one is damaged.
    """
    known = state / "datastores"
    known.mkdir(parents=True, exist_ok=True, mode=0o700)
    return {it.name: _open(it, known / it.name) for it in configured}


def _open(configured: DatastoreConfig, known: Path) -> Datastore:
    name, path, devices = configured.name, configured.path, configured.devices
    try:
        store = Datastore.open(name, path, devices)
    except NotFound as error:
        if (identity := _identity(known)) is None:
            raise
        log.error("datastore %s cannot be used until it is mounted: %s", name, error.detail)
        return Datastore(name, path, identity, devices)
    if _identity(known) != store.id:
        known.write_text(str(store.id))
    return store


def _identity(known: Path) -> UUID | None:
    """None: never seen, or not written to the end."""
    try:
        return UUID(known.read_text().strip())
    except (FileNotFoundError, ValueError):
        return None
