"""One job of QEMU, by its id: what it does, waiting for it, taking it off QEMU's list.

Invariant: a job is known by its id alone. Events only wake the waiter, `query-jobs` tells; so neither another job's
event nor one that came before an agent's restart misleads anybody.

For jobs that were begun with auto-dismiss=false: they stay on the list, with their error, until `dismiss`.

Not done here: beginning, completing and cancelling jobs, which differ from job to job.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from typing import Any

from kvmove.errors import Unreachable
from kvmove.qemu.monitor import COMMAND_SECONDS, Event, Monitor

READY, CONCLUDED = "ready", "concluded"

OVER: tuple[str | None, ...] = (CONCLUDED, None)
"""States of a job that does nothing any more: its error can be asked for, or it is gone."""

_POLL_SECONDS = 0.25


class Job:
    """A job that may be there or not. Nothing here changes the guest's disks."""

    def __init__(self, monitor: Monitor, job_id: str) -> None:
        self.job_id = job_id
        self._monitor = monitor

    async def status(self, *, timeout: float = COMMAND_SECONDS) -> str | None:
        """QEMU's JobStatus (`running`, `ready`, `standby`, `concluded`, …), or None when it knows no such job.

        :raise Unreachable: QEMU does not answer in `timeout` seconds.
        """
        job = await self._find(timeout)
        return None if job is None else str(job["status"])

    async def wait(self, wanted: Collection[str | None], *, timeout: float) -> str | None:
        """Wait until the status is one of `wanted` (None: the job is gone), and return it.

        :raise Unreachable: it is not within `timeout` seconds, or QEMU does not answer.
        """
        async with _deadline(timeout, f"QEMU's job {self.job_id} took too long"):
            while True:
                since = self._monitor.sequence  # before the question: a change after its answer is not missed
                status = await self.status()
                if status in wanted:
                    return status
                with contextlib.suppress(Unreachable):
                    await self._monitor.wait_event(
                        "JOB_STATUS_CHANGE", self._is_mine, timeout=_POLL_SECONDS, since=since
                    )

    async def dismiss(self) -> str | None:
        """Take the concluded job off QEMU's list; what error it ended with. A job that is gone has none to tell.

        :raise QemuError: it is not concluded; it runs on. :raise Unreachable: QEMU does not answer.
        """
        job = await self._find(COMMAND_SECONDS)
        if job is None:
            return None
        await self._monitor.execute("job-dismiss", {"id": self.job_id})
        error = job.get("error")
        return str(error) if error else None

    async def _find(self, timeout: float) -> dict[str, Any] | None:
        jobs = await self._monitor.execute("query-jobs", timeout=timeout)
        return next((job for job in jobs if job["id"] == self.job_id), None)

    def _is_mine(self, event: Event) -> bool:
        return event.data.get("id") == self.job_id


@contextlib.asynccontextmanager
async def _deadline(seconds: float, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise Unreachable(f"{what}: over {seconds:g} s") from error
