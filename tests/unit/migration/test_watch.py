"""What a move watches: each thing that ends it, ends it with its own words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from kvmove.client.agent import AgentClient
from kvmove.errors import Cancelled, MoveFailed
from kvmove.migration.watch import MoveWatch, VmLost
from kvmove.model.move import HostRef, MovePlan
from kvmove.model.vm import VmDefinition
from kvmove.qemu.instance import Instance
from kvmove.qemu.monitor import Event

PLAN = MovePlan(
    move_id="m-1",
    vm=VmDefinition(name="web", uuid=uuid4(), memory=64 * 2**20),
    source=HostRef(name="h1", control="10.0.0.1:7441"),
    destination=HostRef(name="h2", control="10.0.0.2:7441"),
    disks=(),
    routes=(),
    epoch=3,
)


class Guest:
    """A QEMU whose events and end a test makes."""

    def __init__(self) -> None:
        self.alive = True
        self.listeners: list[Callable[[Event], None]] = []
        self.monitor = SimpleNamespace(on_event=self._on_event)
        self.process = SimpleNamespace(is_alive=lambda: self.alive)

    def _on_event(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def happens(self, name: str, **data: Any) -> None:
        for listener in self.listeners:
            listener(Event(1, name, data, 0.0))

    def watch(self) -> MoveWatch:
        return MoveWatch(PLAN, cast("Instance", self), cast("AgentClient", None))


async def test_a_guest_that_powers_off_ends_the_move() -> None:
    guest = Guest()
    watch = guest.watch()
    guest.happens("SHUTDOWN", guest=True, reason="guest-shutdown")
    with pytest.raises(MoveFailed, match="powered off"):
        await watch.run()
    watch.close()
    assert not guest.listeners


async def test_a_guest_that_reboots_does_not() -> None:
    guest = Guest()
    watch = guest.watch()
    guest.happens("RESET", guest=True, reason="guest-reset")
    watch.cancelled.set()
    with pytest.raises(Cancelled):
        await watch.run()


async def test_a_qemu_that_ended_is_a_vm_lost() -> None:
    guest = Guest()
    guest.alive = False
    with pytest.raises(VmLost):
        await guest.watch().run()


async def test_an_agent_that_ends_takes_the_work_along() -> None:
    began, after = asyncio.Event(), []

    async def work() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            after.append("ended")

    waiting = asyncio.create_task(Guest().watch().during(work()))
    await began.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert after == ["ended"], "the work goes on beside what is undone"
