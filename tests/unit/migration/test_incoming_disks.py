"""The disks of a move at its destination, when its source goes on with the copy."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from kvmove.errors import MoveFailed
from kvmove.migration import incoming_disks
from kvmove.migration.host_parts import HostParts
from kvmove.migration.incoming_disks import IncomingDisks
from kvmove.mover.receiver import DiskReceiver
from tests.support.hand_over_rig import PLAN


class FailsAtLast(DiskReceiver):
    """A sync is under way when its streams are ended, and fails while that is waited for."""

    def stop(self) -> None:
        super().stop()
        self.fail("d0: cannot make it durable")


@pytest.fixture
def disks(tmp_path: Path) -> IncomingDisks:
    host = SimpleNamespace(name="h2", run=tmp_path, datastores={})
    return IncomingDisks(cast(HostParts, host), PLAN)


async def test_a_sync_that_fails_while_streams_end_is_not_forgotten(
    disks: IncomingDisks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming_disks, "DiskReceiver", FailsAtLast)
    await disks.reopen()
    with pytest.raises(MoveFailed, match="cannot make it durable"):
        await disks.take_anew()
    assert disks.failure == "d0: cannot make it durable"
    with pytest.raises(MoveFailed):
        await disks.take_anew()
    await disks.stop()


async def test_streams_may_come_anew_as_often_as_it_takes(disks: IncomingDisks) -> None:
    await disks.reopen()
    incarnation = disks.incarnation
    for _ in range(2):
        await disks.take_anew()
        assert not disks.failure and disks.incarnation == incarnation
    await disks.stop()
