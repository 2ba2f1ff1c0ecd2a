"""Names of what there is, for the shell's completion: kept for some seconds, because a shell asks at every TAB.

Invariant: it never fails and never keeps a person waiting: a manager that is away is not asked again for as long as
names are kept, and what was known of it last is offered meanwhile.
"""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kvmove.cli.lazy import load
from kvmove.cli.options import Options
from kvmove.cli.settings import Target, find_target
from kvmove.errors import KvmoveError

KEPT_SECONDS = 5.0
ANSWER_SECONDS = 1.5

Names = dict[str, dict[str, str]]
"""By kind (`vm`, `host`, `datastore`, `task`): each name and what to say of it."""


def known_names(kind: str, options: Options | None) -> Mapping[str, str]:
    """The names of a kind with a word on each; empty when none are known."""
    try:
        target = find_target(options or Options())
    except KvmoveError:
        return {}
    file = _cache_folder(os.environ) / f"names-{hashlib.sha256(repr(target).encode()).hexdigest()[:16]}.json"
    return _fresh(file, target).get(kind, {})


def _cache_folder(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kvmove"


def _fresh(file: Path, target: Target) -> Names:
    kept = _read(file)
    age = time.time() - kept["at"]
    if 0 <= age < KEPT_SECONDS:
        return dict(kept["names"])
    names: Names = kept["names"]
    with suppress(KvmoveError, TimeoutError):
        names = asyncio.run(_ask(target))
    _write(file, {"at": time.time(), "names": names})
    return names


def _read(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        kept = json.loads(file.read_text())
        if isinstance(kept, dict) and isinstance(kept.get("at"), float) and isinstance(kept.get("names"), dict):
            return kept
    return {"at": 0.0, "names": {}}


def _write(file: Path, kept: dict[str, Any]) -> None:
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(kept))
        new.replace(file)


async def _ask(target: Target) -> Names:
    manager = load("kvmove.client.manager:ManagerClient")(target.server, target.pki)
    async with manager, asyncio.timeout(ANSWER_SECONDS):
        vms, hosts = await manager.vms(), await manager.hosts()
        datastores, tasks = await manager.datastores(), await manager.tasks()
    return {
        "vm": {vm.definition.name: f"{vm.state} on {vm.host}" for vm in vms},
        "host": {host.name: "up" if host.reachable else "no answer" for host in hosts},
        "datastore": {store.name: "" for store in datastores},
        "task": {task.id: f"{task.vm} {task.source} to {task.destination}, {task.state}" for task in tasks},
    }
