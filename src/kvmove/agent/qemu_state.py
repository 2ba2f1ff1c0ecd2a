"""A QEMU's own run states in the words of the product."""

from __future__ import annotations

import asyncio

from kvmove.errors import Unreachable
from kvmove.model.vm import VmState
from kvmove.qemu import run_control
from kvmove.qemu.instance import Instance

STATE_SECONDS = 2.0
"""How long a list of VMs waits for a QEMU that does not answer."""

_STATES = {
    run_control.RUNNING: VmState.RUNNING,
    run_control.INCOMING: VmState.INCOMING,
    run_control.SHUTDOWN: VmState.OFF,
}


async def state_of(instance: Instance) -> VmState:
    """What the QEMU does with its guest; UNKNOWN when it does not answer."""
    try:
        async with asyncio.timeout(STATE_SECONDS):
            state = await run_control.run_state(instance.monitor)
    except (Unreachable, TimeoutError):
        return VmState.UNKNOWN
    return _STATES.get(state, VmState.PAUSED)
