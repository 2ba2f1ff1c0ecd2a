"""A read-only view of a running VM's disks over NBD, served by its own QEMU: the way to read what is not a raw file.

Each export is on the disk's root node, below the filter of a mirror: so it neither sees nor disturbs one that starts
or ends, and it lives through a migration (QEMU 7.2: it only reads, and shares everything but resizing).

Invariant: nothing is remembered. `start` first takes down what it finds, `end` takes down what there is; so both may
follow anything, an agent that was killed in the middle too. The VM's only NBD server is ours.

It costs QEMU's main loop: a raw disk is better read from its file. Not done here: reading (`disk.nbd_disk`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

from kvmove.errors import QemuError, Unreachable
from kvmove.qemu.monitor import Monitor

SERVER_SECONDS = 10.0
_RETRY_SECONDS = 0.02
_PREFIX = "kvmove-"


class DiskExports:
    """The exports of one VM at `socket`, which lies in the VM's runtime folder (mode 0700)."""

    def __init__(self, monitor: Monitor, socket: Path) -> None:
        self.socket = socket
        self._monitor = monitor

    async def start(self, nodes: Mapping[str, str]) -> None:
        """Serve the root node of each disk (see `Instance.disk_nodes`) as the export of the disk's name, with
        allocation depths. The guest may run, and be mirrored.

        :raise QemuError: QEMU refused. :raise Unreachable: QEMU does not answer. After both the caller must `end`.
        """
        await self.end()
        address = {"type": "unix", "data": {"path": str(self.socket)}}
        await self._monitor.execute("nbd-server-start", {"addr": address})
        for disk, node in nodes.items():
            export = {"type": "nbd", "id": f"{_PREFIX}{disk}", "node-name": node, "name": disk}
            await self._monitor.execute("block-export-add", export | {"writable": False, "allocation-depth": True})

    async def end(self) -> None:
        """Cut who reads, take the exports down and stop the server. What is not there is no error.

        :raise Unreachable: QEMU does not answer, or an export does not go. They cost nothing but memory; ask again.
        """
        for export in await self._ours():
            with contextlib.suppress(QemuError):  # it is going already
                await self._monitor.execute("block-export-del", {"id": export, "mode": "hard"})
        deadline = asyncio.get_running_loop().time() + SERVER_SECONDS
        while exports := await self._ours():
            if asyncio.get_running_loop().time() > deadline:
                raise Unreachable(f"QEMU does not end the exports {', '.join(exports)} of the VM's disks")
            await asyncio.sleep(_RETRY_SECONDS)
        with contextlib.suppress(QemuError):  # there is none
            await self._monitor.execute("nbd-server-stop")
        self.socket.unlink(missing_ok=True)

    async def _ours(self) -> list[str]:
        exports = await self._monitor.execute("query-block-exports")
        return [export["id"] for export in exports if export["id"].startswith(_PREFIX)]
