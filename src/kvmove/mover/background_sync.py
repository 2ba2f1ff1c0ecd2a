"""Syncs the destination's disks all the while, so that the last sync, with the guest paused, is short.

Invariant: after a sync that failed none succeeds any more. The kernel tells of pages that it could not write only
once; a later sync that succeeds would prove nothing.

One thread. Deliberately not here: what is written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from kvmove.errors import KvmoveError, MoveFailed
from kvmove.log_context import inherited

log = logging.getLogger(__name__)

SYNC_BYTES = 32 * 1024 * 1024
SYNC_SECONDS = 0.5
"""A sync begins after this much was written or this much time: what is left for the last one is less."""


class Syncable(Protocol):
    """What is synced."""

    def sync(self) -> None:
        """Make what was written durable.

        :raise KvmoveError: the storage failed.
        """


class BackgroundSync:
    """See the file's head. `failed` is told in its thread, once, what a sync of its own raised."""

    seconds = 0.0
    """So long did the syncs take."""

    def __init__(self, disks: Sequence[Syncable], failed: Callable[[KvmoveError], None]) -> None:
        self._disks = disks
        self._failed = failed
        self._failure: KvmoveError | None = None
        self._unsynced = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._now = threading.Event()
        self._thread = threading.Thread(target=inherited(self._keep_synced), name="disk-sync", daemon=True)

    def start(self) -> None:
        """Begin; without it there are only the syncs that are asked for."""
        self._thread.start()

    def wrote(self, size: int) -> None:
        """So many bytes were written. From any thread."""
        self._unsynced += size
        if self._unsynced >= SYNC_BYTES:
            self._now.set()

    def sync(self) -> None:
        """Make all that was written before durable.

        :raise KvmoveError: the storage failed, now or at an earlier sync: throw the disks away.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._unsynced = 0
            began = time.monotonic()
            try:
                for disk in self._disks:
                    disk.sync()
            except KvmoveError as error:
                self._failure = error
                raise
            except Exception as error:
                log.exception("a sync failed")
                self._failure = MoveFailed(f"a sync failed by a defect of ours: {error!r}")
                raise self._failure from error
            finally:
                self.seconds += time.monotonic() - began

    def stop(self) -> None:
        """End the thread; a sync that is under way is waited for."""
        self._stopping.set()
        self._now.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _keep_synced(self) -> None:
        while not self._stopping.is_set():
            self._now.wait(SYNC_SECONDS)
            self._now.clear()
            if self._unsynced:
                try:
                    self.sync()
                except KvmoveError as error:
                    self._failed(error)
                    return
