"""The sync in the background, and what it must not hide."""

import errno

import pytest

from kvmove.disk.errors import DiskError
from kvmove.errors import KvmoveError
from kvmove.mover.background_sync import SYNC_BYTES, BackgroundSync
from tests.support.eventually import eventually


class Storage:
    """Counts its syncs; raises once when it is `full`, as the kernel does."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.synced = 0

    def sync(self) -> None:
        self.synced += 1
        if self.full:
            self.full = False
            raise DiskError("d0: cannot make it durable", errno.ENOSPC)


async def test_what_is_written_is_synced_without_being_asked_for() -> None:
    storage = Storage()
    failures: list[KvmoveError] = []
    sync = BackgroundSync([storage], failures.append)
    sync.start()
    sync.wrote(SYNC_BYTES)
    await eventually(lambda: storage.synced == 1)
    sync.stop()
    assert not failures


async def test_a_failed_sync_is_told_and_no_later_one_succeeds() -> None:
    storage = Storage(full=True)
    failures: list[KvmoveError] = []
    sync = BackgroundSync([storage], failures.append)
    sync.start()
    sync.wrote(SYNC_BYTES)
    await eventually(lambda: bool(failures))
    with pytest.raises(DiskError) as caught:
        sync.sync()
    sync.stop()
    assert failures == [caught.value]
    assert storage.synced == 1
