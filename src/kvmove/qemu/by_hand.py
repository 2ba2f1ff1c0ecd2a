"""A live move with its disk as one does it by hand: QEMU's NBD server, its mirror, its migration, one connection each.

It is the peer that kvmove is measured beside (lab/plain_qemu); kvmove moves no VM this way. All of QEMU's defaults are
left as they are: the mirror copies in the background, in units of 64 KiB.
"""

from __future__ import annotations

import asyncio

from kvmove.errors import MoveFailed, Unreachable
from kvmove.qemu.block_jobs import END_SECONDS
from kvmove.qemu.features import find_features
from kvmove.qemu.jobs import OVER, READY, Job
from kvmove.qemu.migration import Migration, MigrationParameters, Status
from kvmove.qemu.monitor import Monitor

JOB = "by-hand"
TARGET = "by-hand-target"
UNLIMITED = 100 * 10**9
DOWNTIME_LIMIT_MS = 300
"""QEMU's default, and what libvirt leaves it at."""

MEMORY_SECONDS = 120.0


async def await_guest(monitor: Monitor, node: str, address: str, ports: tuple[int, int]) -> None:
    """Destination: let the disk `node` be written at the first port of `address`, and wait for memory at the second.

    :raise QemuError: QEMU refused.
    """
    disk_port, memory_port = ports
    server = {"type": "inet", "data": {"host": address, "port": str(disk_port)}}
    await monitor.execute("nbd-server-start", {"addr": server})
    export = {"type": "nbd", "id": JOB, "node-name": node, "name": node, "writable": True}
    await monitor.execute("block-export-add", export)
    migration = Migration(monitor, await find_features(monitor))
    await migration.configure_destination(0)
    await migration.incoming(f"tcp:{address}:{memory_port}")


async def move(monitor: Monitor, node: str, address: str, ports: tuple[int, int]) -> None:
    """Source: copy the disk until it is in step, then memory; return once the source has sent all.

    There is no end to wait for where the guest writes faster than the mirror copies: let the caller cancel this.

    :raise MoveFailed, QemuError, Unreachable: QEMU gave up.
    """
    disk_port, memory_port = ports
    server = {"type": "inet", "host": address, "port": str(disk_port)}
    await monitor.execute(
        "blockdev-add", {"driver": "nbd", "node-name": TARGET, "server": server, "export": node, "discard": "unmap"}
    )
    await monitor.execute(
        "blockdev-mirror",
        {"job-id": JOB, "device": node, "target": TARGET, "sync": "full", "auto-dismiss": False},
    )  # fmt: skip
    job = Job(monitor, JOB)
    await _in_step(job)
    migration = Migration(monitor, await find_features(monitor))
    limits = MigrationParameters(max_bandwidth=UNLIMITED, downtime_limit_ms=DOWNTIME_LIMIT_MS)
    await migration.configure_source(0, limits)
    await migration.migrate(f"tcp:{address}:{memory_port}")
    await migration.wait_status({Status.PRE_SWITCHOVER}, timeout=MEMORY_SECONDS)
    await monitor.execute("block-job-cancel", {"device": JOB})
    await job.wait(OVER, timeout=END_SECONDS)
    await migration.continue_switchover()
    await migration.wait_status({Status.COMPLETED}, timeout=MEMORY_SECONDS)


async def take_over(monitor: Monitor) -> None:
    """Destination: the disk is nobody else's any more.

    :raise QemuError: QEMU refused.
    """
    await monitor.execute("nbd-server-stop")


async def _in_step(job: Job) -> None:
    while True:
        try:
            if await job.wait({READY, *OVER}, timeout=END_SECONDS) != READY:
                raise MoveFailed(f"QEMU's mirror ended: {await job.dismiss() or 'it says nothing'}")
        except Unreachable:
            await asyncio.sleep(0)
            continue
        return
