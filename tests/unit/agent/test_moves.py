"""The moves of a host: what is told of one that was forgotten, and one that fails as nobody foresaw."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from uuid import uuid4

import pytest

from kvmove.agent.moves import Moves
from kvmove.errors import NotFound
from kvmove.migration import recovery
from kvmove.migration.host_parts import HostParts
from kvmove.migration.journal import Journal, Step
from kvmove.migration.move_board import MoveBoard
from kvmove.migration.procedure import Procedure
from kvmove.migration.recovery import MoveRecovery
from kvmove.model.move import HostRef, MovePlan, Phase
from kvmove.model.vm import VmDefinition
from tests.support.eventually import eventually

PLAN = MovePlan(
    move_id="m-1",
    vm=VmDefinition(name="web", uuid=uuid4(), memory=64 * 2**20),
    source=HostRef(name="h1", control="10.0.0.1:7441"),
    destination=HostRef(name="h2", control="10.0.0.2:7441"),
    disks=(),
    routes=(),
    epoch=3,
)


@pytest.fixture
def host(tmp_path: Path) -> HostParts:
    vms = SimpleNamespace(begin_move=lambda *_: None)
    outgoing = Journal(tmp_path, "outgoing")
    outgoing.of(PLAN.move_id).write(Step.BEGAN, {"plan": PLAN.model_dump(mode="json")})
    return cast("HostParts", SimpleNamespace(name="h1", vms=vms, outgoing=outgoing, pki=tmp_path))


async def test_whoever_follows_a_move_that_is_forgotten_is_told_so(host: HostParts) -> None:
    moves = Moves(host)
    moves._boards[PLAN.move_id] = MoveBoard(PLAN)
    events = moves.events(PLAN.move_id)
    assert (await anext(events)).outcome is None
    moves._boards.clear()
    with pytest.raises(NotFound):
        await anext(events)


class Defective:
    """A move that fails as nobody foresaw."""

    plan = PLAN

    async def run(self) -> None:
        raise RuntimeError("planted")


class Nobody:
    """A destination that is not asked."""

    def __init__(self, *_: object) -> None:
        pass

    async def close(self) -> None:
        pass


class Recovery(MoveRecovery):
    """Fails the first time as nobody foresaw."""

    tries = 0

    async def _undo(self, destination: object) -> None:
        self.tries += 1
        if self.tries == 1:
            raise RuntimeError("planted")
        assert "planted" in self.board.message
        self.board.ended(Phase.ABORTED)


async def test_a_move_with_a_defect_is_undone_though_its_undoing_fails_at_first(
    host: HostParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmove.agent.moves.MoveRecovery", Recovery)
    monkeypatch.setattr(recovery, "pause", lambda: asyncio.sleep(0))
    monkeypatch.setattr(recovery, "AgentClient", Nobody)
    moves = Moves(host)
    await moves._run(cast("Procedure", Defective()))
    await eventually(lambda: moves.status(PLAN.move_id).outcome is not None)
    await moves.close()
    assert host.outgoing.of(PLAN.move_id).has(Step.ENDED)
