"""What must be true before QEMU is switched to the new disks of a storage move."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kvmove.errors import MoveFailed
from kvmove.migration import storage_move
from kvmove.migration.disk_mirrors import DiskMirrors
from kvmove.migration.host_parts import HostParts
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.storage_move import StorageMove
from kvmove.migration.switchover import Timing
from kvmove.qemu.instance import Instance
from tests.support.nouns import move_plan


class Disks:
    """Settles as often as it is told to, then no more."""

    def __init__(self, settles: int) -> None:
        self.left = settles

    def wait_settled(self, timeout: float) -> bool:
        self.left -= 1
        return self.left >= 0

    def expect_mirrors_to_end(self, *, expected: bool) -> None:
        """As they do."""

    def sync_targets(self) -> None:
        """At once."""


class Pivot:
    def __init__(self, said: list[str]) -> None:
        self.said = said

        self.is_switched = False
        self.file = "new"

    async def settle(self) -> bool:
        return self.is_switched

    async def switch(self) -> None:
        self.said.append("switch")
        self.is_switched = True

    async def switch_back(self) -> None:
        self.said.append("switch back")
        self.is_switched = False


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What QEMU is told, in order."""
    told: list[str] = []

    async def stop(monitor: object) -> None:
        told.append("stop")

    async def cont(monitor: object) -> None:
        told.append("cont")

    monkeypatch.setattr(storage_move, "run_control", SimpleNamespace(stop=stop, cont=cont))
    return told


def move(said: list[str], settles: int) -> StorageMove:
    """A storage move at its switchover, with nothing real in it."""
    plan = move_plan()
    plan = plan.model_copy(update={"disks": plan.disks[:1]})
    monitor = SimpleNamespace(on_event=lambda listen: lambda: None)
    instance = SimpleNamespace(monitor=monitor, process=SimpleNamespace(is_alive=lambda: True))
    vms = SimpleNamespace(instance=lambda vm: instance)
    journal = SimpleNamespace(write=lambda step, facts: said.append(str(step)))
    host = SimpleNamespace(vms=vms, outgoing=SimpleNamespace(of=lambda move_id: journal), datastores={})
    made = StorageMove(cast("HostParts", host), plan, MoveBoard(plan))
    pivot = Pivot(said)
    vars(made).update(
        _disks=Disks(settles), _new=SimpleNamespace(pivots=lambda _: [pivot])
    )  # fmt: skip
    return made


async def switch(made: StorageMove) -> Any:
    async with AsyncExitStack() as undo:
        mirrors = cast("DiskMirrors", SimpleNamespace(jobs=[]))
        await made._switch(cast("Instance", made._instance), mirrors, undo, Timing())
        await made._give_word()
        undo.pop_all()


async def test_the_word_is_given_after_the_switch_and_nothing_is_undone(said: list[str]) -> None:
    await switch(move(said, settles=2))
    assert said == ["stop", "switch", "yielded"]


@pytest.mark.parametrize("settles", [0, 1], ids=["not-drained", "written-after-the-mirrors-ended"])
async def test_disks_that_are_not_equal_are_never_switched_to(said: list[str], settles: int) -> None:
    with pytest.raises(MoveFailed):
        await switch(move(said, settles))
    assert said == ["stop", "cont"]


async def test_what_fails_after_the_word_is_never_called_undone(said: list[str]) -> None:
    made = move(said, settles=2)
    vars(made)["_yielded"] = True
    with pytest.raises(MoveFailed):
        await made._failed(MoveFailed("a defect"))
    assert made.board.status().outcome is None


async def test_a_cancel_in_the_stun_goes_back_to_the_old_disks_before_the_guest_runs(said: list[str]) -> None:
    made = move(said, settles=2)
    assert made.cancel()
    with pytest.raises(Exception, match="cancelled"):
        await switch(made)
    assert said == ["stop", "switch", "switch back", "cont"]


async def test_a_guest_on_a_new_disk_is_not_let_run_when_switching_back_was_broken_off(said: list[str]) -> None:
    """What it wrote there would be deleted by the agent's next start."""
    made = move(said, settles=2)

    async def broken_off() -> None:
        raise asyncio.CancelledError

    vars(made)["_switch_back"] = broken_off
    assert made.cancel()
    with pytest.raises(asyncio.CancelledError):
        await switch(made)
    assert said == ["stop", "switch"]
