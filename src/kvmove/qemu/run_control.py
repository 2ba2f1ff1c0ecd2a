"""The run state of a guest: asking for it, letting it run, stopping it, telling the network where it is.

Not done here: deciding who may run. `cont` on the wrong side is a split brain; the caller holds the ownership.
"""

from __future__ import annotations

import asyncio

from kvmove.errors import MoveFailed
from kvmove.qemu.monitor import Monitor

_LOOK_SECONDS = 0.002

STOP_SECONDS = 30.0
"""`stop` drains and flushes every disk; a slow one takes its time, with the guest standing still."""

RUNNING = "running"
POSTMIGRATE = "postmigrate"
SHUTDOWN = "shutdown"
INCOMING = "inmigrate"


async def run_state(monitor: Monitor) -> str:
    """QEMU's run state: `running`, `paused`, `prelaunch`, `inmigrate`, `finish-migrate`, `postmigrate`, `shutdown`, …

    :raise Unreachable: QEMU does not answer.
    """
    answer = await monitor.execute("query-status")
    return str(answer["status"])


async def wait_state(monitor: Monitor, wanted: str, *, timeout: float) -> None:
    """Wait for a run state that QEMU is about to have: a source says `completed` a moment before it is `postmigrate`.

    :raise MoveFailed: it is another one after `timeout` seconds. :raise Unreachable: QEMU does not answer.
    """
    state = ""
    try:
        async with asyncio.timeout(timeout):
            while True:
                state = await run_state(monitor)
                if state == wanted:
                    return
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError as error:
        raise MoveFailed(f"The guest's QEMU is {state}, not {wanted}, after {timeout:g} s.") from error


async def cont(monitor: Monitor, *, timeout: float = STOP_SECONDS) -> None:
    """Let the guest run. Takes the locks of its disks, if a migration had given them up or not yet taken them.

    On a `postmigrate` source this is the take-back. On a destination it is the one step that cannot be undone.

    :raise QemuError: a lock is held by another process, or the guest shut down; it stands still, a second try may do.
    :raise Unreachable: whether it runs is unknown; ask `run_state`.
    """
    await monitor.execute("cont", timeout=timeout)


async def go_on(monitor: Monitor) -> None:
    """Let a guest that stands still run; nothing happens when it runs, or has powered off. Raises as `cont` does."""
    if await run_state(monitor) not in (RUNNING, SHUTDOWN):
        await cont(monitor)


async def stop(monitor: Monitor, *, timeout: float = STOP_SECONDS) -> None:
    """Stop the vCPUs, drain and flush the disks. Raises as `cont` does."""
    await monitor.execute("stop", timeout=timeout)


async def reset(monitor: Monitor) -> None:
    """Press the reset button; a guest in `shutdown` can run again after it."""
    await monitor.execute("system_reset")


async def power_button(monitor: Monitor) -> None:
    """Press the power button (ACPI). Whether the guest heeds it shows in its run state: `shutdown`."""
    await monitor.execute("system_powerdown")


async def announce_self(monitor: Monitor) -> None:
    """Send the guest's addresses over its NICs for some seconds, so that switches learn where it is (QEMU 4.0 on)."""
    await monitor.execute("announce-self", {"initial": 50, "max": 550, "rounds": 10, "step": 50})
