"""What a source does once its VM is elsewhere: once, and not to a VM that has come back."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from kvmove.client.agent import AgentClient
from kvmove.disk.quarantine import Leaving
from kvmove.migration.clean_up import clean_up
from kvmove.migration.host_parts import HostParts
from kvmove.migration.journal import Journal, Step
from kvmove.migration.move_board import MoveBoard
from kvmove.model.move import MovePlan
from tests.support.nouns import move_plan


class Store:
    def __init__(self) -> None:
        self.put_aside: list[Leaving] = []

    def quarantine(self, vm: object, move_id: str, leaving: Leaving) -> None:
        self.put_aside.append(leaving)


def host(folder: Path, store: Store, *, gone: bool) -> HostParts:
    async def give_away(vm: object, epoch: int) -> bool:
        return gone

    stores = {disk.source_datastore: store for disk in move_plan().disks}
    parts = SimpleNamespace(
        vms=SimpleNamespace(give_away=give_away), datastores=stores, outgoing=Journal(folder, "out"), run=folder
    )
    return cast(HostParts, parts)


async def clean(parts: HostParts, plan: MovePlan) -> None:
    await clean_up(parts, plan, cast(AgentClient, None), MoveBoard(plan))


async def test_disks_are_put_aside_once_also_after_a_restart(tmp_path: Path) -> None:
    """The second time another disk of that name may lie there: the VM's own, come back."""
    plan, store = move_plan(), Store()
    for _ in range(2):
        await clean(host(tmp_path, store, gone=True), plan)
    assert store.put_aside == [Leaving(("root", "data"))]


async def test_nothing_is_done_to_a_vm_that_has_come_back(tmp_path: Path) -> None:
    store = Store()
    await clean(host(tmp_path, store, gone=False), move_plan())
    assert store.put_aside == []


@pytest.mark.parametrize("written", [0, 5])
def test_a_step_that_the_file_system_takes_in_part_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    journal = Journal(tmp_path, "out").of("m1")
    monkeypatch.setattr("os.write", lambda descriptor, data: written)
    with pytest.raises(OSError, match="No space left"):
        journal.write(Step.YIELDED, {})
    assert not journal.has(Step.YIELDED)
