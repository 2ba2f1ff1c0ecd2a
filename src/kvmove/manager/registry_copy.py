"""Carries a registry from the manager's SQLite file into etcd, once, while the manager is down.

Invariant: an owner and an epoch are put into etcd only where etcd has nothing of that VM, or the very same; so it can
be run again after a failure, and never takes anything back. Deleted VMs go too: their epochs must not begin anew.
The file is renamed at the end, so that nobody goes on with it: from then on it would be an old registry.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from kvmove.errors import Busy, InvalidInput, NotFound
from kvmove.manager.config import EtcdSettings, load_config
from kvmove.manager.listeners import hold
from kvmove.manager.registry_engine import SQLITE_FILE, open_etcd
from kvmove.model.ownership import OwnershipState
from kvmove.registry.etcd import EtcdRegistry
from kvmove.registry.sqlite import SqliteRegistry

DONE_SUFFIX = ".copied"


class Copied(BaseModel):
    """What was put into etcd: the VMs that have an owner, and those that were deleted. `file` is what is left."""

    owned: int
    deleted: int
    file: Path


async def copy_registry(config_path: Path) -> Copied:
    """Copy from the state folder of the configuration at `config_path` into the etcd that it names.

    :raise InvalidInput: it names no etcd.
    :raise NotFound: there is no SQLite registry (any more).
    :raise Busy: the manager runs, a VM moves, or etcd has another record of a VM.
    :raise Unreachable: etcd does not answer; run it again.
    """
    config = load_config(config_path)
    if not isinstance(config.registry, EtcdSettings):
        raise InvalidInput(
            f"{config_path} does not keep its registry in etcd",
            hint='write engine = "etcd" and endpoints into its [registry] first; see docs/operating.md',
        )
    with hold(config.state):
        file = config.state / SQLITE_FILE
        if not file.exists():
            raise NotFound(f"there is no {file}", hint="was it copied already?")
        source, target = SqliteRegistry(file), open_etcd(config.registry)
        try:
            copied = await _copy(source, target, file)
        finally:
            await target.close()
            await source.close()
        return copied.model_copy(update={"file": file.rename(file.with_name(file.name + DONE_SUFFIX))})


async def _copy(source: SqliteRegistry, target: EtcdRegistry, file: Path) -> Copied:
    records = {record.vm: record for record in await source.list()}
    epochs = await source.released()
    moving = [str(vm) for vm, record in records.items() if record.state is OwnershipState.MOVING]
    if moving:
        raise Busy(
            f"these VMs move: {', '.join(moving)}",
            hint="start the manager with SQLite once more, and wait until their moves have ended",
        )
    for vm in records.keys() | epochs.keys():
        await target.bring(vm, records.get(vm), epochs.get(vm, 0))
    return Copied(owned=len(records), deleted=len(epochs.keys() - records.keys()), file=file)
