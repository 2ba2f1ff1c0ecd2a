"""Mirroring a disk's writes to an NBD server of ours (`blockdev-mirror`, sync=none), in one of two copy modes:

    background       a guest's write is done once it is on the disk; QEMU notes its range and sends it soon afterwards.
                     The guest does not feel the mirror, and can be ahead of it without bound
    write-blocking   a guest's write is done once it is on the disk and the server has answered

In both QEMU sends what a write wrote only after it is on the source's disk (7.2 block/mirror.c). Changing over is not
done here: QEMU can since 8.2 alone, and a job that has ended leaves a gap in any version (migration.disk_mirrors).

Invariant: a job is never force-cancelled (`block-job-cancel force=true`, `job-cancel`, or any cancel before READY).
QEMU 7.2 block/mirror.c frees the in-flight bitmap before it drains, so a forced end with a guest write under way
corrupts QEMU's heap or kills it. A job ends by a soft cancel while the NBD server answers, or by an I/O error.

The server must never stall a reply: QEMU's main loop hangs in the next drain, with the guest. What then still works
is `yank` over the out-of-band monitor, and every wait here falls back on it.

Not done here: the NBD server, and what a failed mirror means for the move.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from kvmove.errors import MoveFailed, QemuError, Unreachable
from kvmove.qemu.jobs import OVER, READY, Job
from kvmove.qemu.monitor import Event, Monitor
from kvmove.units import GIB, KIB

SMALL_DISK = 512 * GIB
_FINE, _COARSE = 4 * KIB, 64 * KIB

START_SECONDS = 10.0
DRAIN_SECONDS = 10.0
END_SECONDS = 10.0
PATIENCE = 1.0
"""How long an abandoned job may take to see that its server is gone before `yank` tells it."""


def granularity(disk_size: int) -> int:
    """The unit (bytes) in which QEMU serialises mirrored writes.

    Fine, because QEMU lets two writes of one unit wait for each other, the reply of the server included; coarse for
    disks over 512 GiB, where the bitmaps would take over 32 MiB of memory.
    """
    return _FINE if disk_size <= SMALL_DISK else _COARSE


class CopyMode(StrEnum):
    """See the file's head; the values are QEMU's own names (qapi/block-core.json, MirrorCopyMode)."""

    BACKGROUND = "background"
    WRITE_BLOCKING = "write-blocking"


class MirrorSpec(NamedTuple):
    """What to mirror where: a disk's root node (see `Instance.disk_nodes`), its size in bytes, the NBD server's
    Unix socket and the export's name. `number` makes QEMU's names unique among the jobs of one VM at one time."""

    node: str
    size: int
    socket: Path
    export: str
    number: int = 0
    mode: CopyMode = CopyMode.WRITE_BLOCKING


async def drain(monitor: Monitor, *, timeout: float = DRAIN_SECONDS) -> None:
    """Wait until no request is under way on any disk of the VM. (An empty transaction begins with bdrv_drain_all.)

    Run it once after *all* mirrors are ready and before the first bulk read: requests that QEMU held back while it put
    a mirror in place went to the source alone (QEMU 7.2 mirror_start_job).

    :raise Unreachable: a request does not end in `timeout` seconds; QEMU's main loop hangs until it does.
    """
    await monitor.execute("transaction", {"actions": []}, timeout=timeout)


class MirrorJob:
    """One mirror, from `start` to `finish` or `abandon`. `failure` says why QEMU ended it, or is None."""

    def __init__(self, monitor: Monitor, oob: Monitor, spec: MirrorSpec) -> None:
        self.spec = spec
        self.job_id = f"mirror-job{spec.number}"
        self.filter_node = f"mirror-filter{spec.number}"
        self.target_node = f"mirror-target{spec.number}"
        self.failure: str | None = None
        self._monitor = monitor
        self._oob = oob
        self._job = Job(monitor, self.job_id)
        self._remove: Callable[[], None] = _nothing

    async def start(self, *, timeout: float = START_SECONDS) -> None:
        """Connect to the server, put the mirror in place and wait until it is ready; then `drain` once for all disks.

        :raise MoveFailed: QEMU refused, or the job failed. After it, and after Unreachable (QEMU does not answer), the
            caller must `abandon`: parts may be there.
        """
        self._remove = self._monitor.on_event(self._watch)
        since = self._monitor.sequence
        await self._monitor.execute("blockdev-add", self._target(), timeout=timeout)
        await self._monitor.execute("blockdev-mirror", self._mirror(), timeout=timeout)
        await self._monitor.wait_event(
            ("BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED"),
            lambda event: event.data.get("device") == self.job_id,
            timeout=timeout,
            since=since,
        )
        self._require_no_failure()

    async def drain(self, *, timeout: float = DRAIN_SECONDS) -> None:
        """`drain`, and require that this job lived through it. Raises as `drain` does, or MoveFailed."""
        await drain(self._monitor, timeout=timeout)
        self._require_no_failure()

    async def finish(self, *, timeout: float = END_SECONDS) -> None:
        """End the mirror well: the server has answered all that the guest wrote without error, or this raises.

        The server must answer. A guest that is not stopped and writes faster than a background mirror sends can keep
        that from ever ending; what it writes after the end is not mirrored.

        :raise MoveFailed: the job had failed, or fails now; at least one write may not have reached the server.
        :raise Unreachable: QEMU hung in it; it was yanked. In both cases the caller must `abandon`.
        """
        if (status := await self._job.status()) != READY:
            raise MoveFailed(self._sentence(self.failure or f"it is {status or 'gone'}"))
        try:
            await self._monitor.execute("block-job-cancel", {"device": self.job_id}, timeout=timeout)
            await self._job.wait(OVER, timeout=timeout)
        except Unreachable:
            await self._yank()
            raise
        error = await self._job.dismiss()
        self._require_no_failure()
        if error:
            raise MoveFailed(self._sentence(error))
        await self._delete_target()
        self._remove()

    async def abandon(self, hang_up: Callable[[], None]) -> None:
        """End the mirror of a move that is given up; the guest goes on, its writes succeed on the source.

        `hang_up` must close the server's side of the connection at once: requests under way fail together, and with
        them the job, which counts its active writes before it goes. An idle guest writes nothing, so nothing fails;
        the soft cancel that follows ends the job then. What has not ended a second later is yanked.

        :raise Unreachable: QEMU does not answer even so. The guest may hang; the job may be there.
        :raise MoveFailed: the job is there still.
        """
        hang_up()
        await self._ask_to_end()
        if not await self._ends_within(PATIENCE):
            await self._yank()
            await self._ask_to_end()
            if not await self._ends_within(END_SECONDS):
                raise MoveFailed(self._sentence("it does not end"), hint="The VM runs on; restart it when you can.")
        with contextlib.suppress(QemuError):
            await self._job.dismiss()
        await self._delete_target()
        self._remove()

    async def _ask_to_end(self) -> None:
        """A soft cancel, if the job is ready (before that QEMU would make it a forced one); no harm if it is over."""
        with contextlib.suppress(QemuError, Unreachable):
            if await self._job.status(timeout=PATIENCE) == READY:
                await self._monitor.execute("block-job-cancel", {"device": self.job_id}, timeout=PATIENCE)

    async def _ends_within(self, timeout: float) -> bool:
        try:
            await self._job.wait(OVER, timeout=timeout)
        except Unreachable:
            return False
        return True

    async def _delete_target(self) -> None:
        with contextlib.suppress(QemuError):  # it was never added, or went with the job
            await self._monitor.execute("blockdev-del", {"node-name": self.target_node})

    async def _yank(self) -> None:
        """Cut the NBD connection from outside of QEMU's main loop: all its requests fail at once."""
        instance = {"type": "block-node", "node-name": self.target_node}
        with contextlib.suppress(QemuError):
            await self._oob.execute_oob("yank", {"instances": [instance]})

    def _watch(self, event: Event) -> None:
        if event.data.get("device") != self.job_id:
            return
        if event.name == "BLOCK_JOB_ERROR":
            self.failure = self.failure or f"{event.data.get('operation')} error on the mirror"
        elif event.name in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED") and event.data.get("error"):
            self.failure = str(event.data["error"])

    def _require_no_failure(self) -> None:
        if self.failure is not None:
            raise MoveFailed(self._sentence(self.failure))

    def _sentence(self, reason: str) -> str:
        return f"the mirror of {self.spec.node} failed: {reason}"

    def _target(self) -> dict[str, Any]:
        return {
            "driver": "nbd",
            "node-name": self.target_node,
            "server": {"type": "unix", "path": str(self.spec.socket)},
            "export": self.spec.export,
            "discard": "unmap",
            "reconnect-delay": 0,  # anything else lets guest writes wait that long for a dead server
        }

    def _mirror(self) -> dict[str, Any]:
        return {
            "job-id": self.job_id,
            "device": self.spec.node,
            "target": self.target_node,
            "sync": "none",
            "copy-mode": self.spec.mode.value,
            "granularity": granularity(self.spec.size),
            "filter-node-name": self.filter_node,
            "on-source-error": "report",
            "on-target-error": "report",
            "auto-dismiss": False,
        }


def _nothing() -> None:
    pass
