"""QEMU's own record of what a guest writes to its disks: dirty bitmaps, which outlive an agent.

Each generation is one bitmap a disk, on its root node, in QEMU's memory alone. It records every write from its
beginning on, mirrored or not, until the next generation has begun. `turn` drains, so a write is finished, and mirrored
if there was a mirror, in the generation in which it was begun.

Only a generation that does not record any more can be read: QEMU 7.2 refuses an enabled bitmap on a read-only export of
a node that is written to. Not done here: reading one (`nbd.dirty_ranges`).

Invariant: all of ours are gone before a VM's memory is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvmove.errors import QemuError, Unreachable
from kvmove.qemu.monitor import Monitor
from kvmove.units import KIB

GRANULARITY = 4 * KIB
"""Bytes for which one bit stands, as small as a guest's writes: a larger block is copied again for each. 32 MiB of
memory for a TiB."""

TURN_SECONDS = 10.0
_GONE_SECONDS = 10.0
_RETRY_SECONDS = 0.02
_PREFIX = "kvmove-writes-"
_EXPORT = "kvmove--record-"


def bitmap_name(generation: int) -> str:
    """What QEMU calls it."""
    return f"{_PREFIX}{generation}"


class WriteRecords:
    """Those of one VM. `nodes` has the root node of each disk that is recorded (see `Instance.disk_nodes`)."""

    def __init__(self, monitor: Monitor, nodes: Mapping[str, str]) -> None:
        self._monitor = monitor
        self._nodes = dict(nodes)
        self._serves: Path | None = None

    async def generations(self) -> list[int]:
        """Those that there are, on any of the disks, oldest first.

        :raise Unreachable: QEMU does not answer.
        """
        found = set()
        for bitmaps in (await self._bitmaps()).values():
            found |= {int(name.removeprefix(_PREFIX)) for name in bitmaps}
        return sorted(found)

    async def _bitmaps(self) -> dict[str, list[str]]:
        """Names of ours by node."""
        found: dict[str, list[str]] = {}
        for node in await self._monitor.execute("query-named-block-nodes", {"flat": True}):
            ours = [it["name"] for it in node.get("dirty-bitmaps", ()) if it.get("name", "").startswith(_PREFIX)]
            if ours and node["node-name"] in self._nodes.values():
                found[node["node-name"]] = ours
        return found

    async def begin(self, generation: int) -> None:
        """Record from now on. Call it before there is a mirror.

        :raise KvmoveError: QEMU refused, or does not answer; `remove` what is there.
        """
        await self._transaction([_add(node, generation) for node in self._nodes.values()])

    async def turn(self, before: int, generation: int) -> None:
        """The generation `generation` records from now on, and `before` no more.

        :raise KvmoveError: as `begin`; none is lost by it.
        """
        steps = [_add(node, generation) for node in self._nodes.values()]
        ends = [{"type": "block-dirty-bitmap-disable", "data": _name(node, before)} for node in self._nodes.values()]
        await self._transaction(steps + ends)

    async def _transaction(self, actions: list[dict[str, Any]]) -> None:
        await self._monitor.execute("transaction", {"actions": actions}, timeout=TURN_SECONDS)

    async def remove(self, before: int | None = None) -> None:
        """Take them away, those older than `before` or all. What is not there is no error.

        :raise KvmoveError: one does not go.
        """
        for node, names in (await self._bitmaps()).items():
            for name in names:
                if before is None or int(name.removeprefix(_PREFIX)) < before:
                    await self._monitor.execute("block-dirty-bitmap-remove", {"node": node, "name": name})

    async def serve(self, generation: int, socket: Path) -> None:
        """Show one that does not record any more, as the meta context `qemu:dirty-bitmap:NAME` of each disk's export,
        which has the disk's name with a dash behind it. A server of the VM that there is, at that very socket, is used.

        :raise KvmoveError: QEMU refused, or does not answer; `serve_no_more` then too.
        """
        address = {"type": "unix", "data": {"path": str(socket)}}
        with contextlib.suppress(QemuError):  # it is there: the VM's disks are read through it
            await self._monitor.execute("nbd-server-start", {"addr": address})
            self._serves = socket
        for disk, node in self._nodes.items():
            export = {"type": "nbd", "id": f"{_EXPORT}{disk}", "node-name": node, "name": export_name(disk)}
            shown = {"writable": False, "bitmaps": [bitmap_name(generation)]}
            await self._monitor.execute("block-export-add", export | shown)

    async def serve_no_more(self) -> None:
        """:raise Unreachable: QEMU does not answer, or an export does not go."""
        for export in await self._exports():
            with contextlib.suppress(QemuError):  # it is going already
                await self._monitor.execute("block-export-del", {"id": export, "mode": "hard"})
        deadline = asyncio.get_running_loop().time() + _GONE_SECONDS
        while exports := await self._exports():
            if asyncio.get_running_loop().time() > deadline:
                raise Unreachable(f"QEMU does not end the exports {', '.join(exports)} of a guest's writes")
            await asyncio.sleep(_RETRY_SECONDS)
        if self._serves is not None:
            with contextlib.suppress(QemuError):
                await self._monitor.execute("nbd-server-stop")
            self._serves.unlink(missing_ok=True)
            self._serves = None

    async def _exports(self) -> list[str]:
        exports = await self._monitor.execute("query-block-exports")
        return [export["id"] for export in exports if export["id"].startswith(_EXPORT)]


def export_name(disk: str) -> str:
    """Of the export that shows what was written to `disk`."""
    return f"{disk}-"


def _name(node: str, generation: int) -> dict[str, Any]:
    return {"node": node, "name": bitmap_name(generation)}


def _add(node: str, generation: int) -> dict[str, Any]:
    bitmap = _name(node, generation) | {"granularity": GRANULARITY, "persistent": False}
    return {"type": "block-dirty-bitmap-add", "data": bitmap}
