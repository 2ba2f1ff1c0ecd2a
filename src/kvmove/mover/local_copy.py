"""A stream that ends on this host: it does what the dispatcher decides to the target's files, instead of sending it.

One thread, and one thing at a time: what it takes from the dispatcher is applied before it takes more, so things of
one region are applied in the order in which they were taken, which is all that a stream owes (region_map, pins).
Several of these share a move as several streams do; a region is only ever with one of them.

- A region is looked at only after it is COPYING. What the guest writes to it meanwhile is held by the dispatcher and
  applied behind the region's bulk.
- Between two extents of a region, mirrored writes of other regions go first. So one waits behind one extent at most,
  and an extent ends with its region (REGION_SIZE of disk_move).
- Holes cost nothing while the target reads as zeroes there (see bulk_copy); else they are punched.

Acknowledged means applied, not durable: `wrote` tells the background sync what to make durable. A disk that cannot be
read or written ends the move.

Deliberately not here: which way the data takes (disk/offload), which region is next (dispatcher).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from itertools import chain

from kvmove.disk.extents import Extent
from kvmove.disk.offload import Offload, Rung
from kvmove.errors import KvmoveError, MoveFailed
from kvmove.log_context import inherited
from kvmove.mover.dispatcher import WritePiece
from kvmove.mover.region_map import RegionCopy
from kvmove.mover.time_spent import StreamTimes, Wait
from kvmove.mover.worker import Engine
from kvmove.transport.priority import yield_to_guests
from kvmove.transport.tcp_info import TcpInfo

log = logging.getLogger(__name__)

BATCH = 256 * 1024
"""Bytes of mirrored writes applied before they are acknowledged together: a guest may wait for the first of them."""

LINGER = 0.002
"""Seconds that an idle worker waits for mirrored writes to gather; the guest does not wait for them (async mode)."""


class LocalCopy(threading.Thread):
    """A `worker.Worker` of a move within a host. `offloads` are the disks of the move, in its order."""

    nic = ""

    def __init__(self, engine: Engine, offloads: Sequence[Offload], wrote: Callable[[int], None]) -> None:
        super().__init__(target=inherited(self._work), name="local-copy", daemon=True)
        self.number = -1
        self.bytes_sent = 0  # no NIC sends anything
        self.times = StreamTimes()
        self._engine = engine
        self._dispatcher = engine.dispatcher
        self._offloads = offloads
        self._wrote = wrote
        self._applied = 0
        self._is_bulks_turn = False
        self._look = threading.Event()

    def _work(self) -> None:
        yield_to_guests()
        self.number = self._engine.new_number()
        self._engine.stream_opened(self)
        self.times.opened(time.monotonic())
        reason = "the move ended"
        try:
            while not self._engine.stopping.is_set():
                if not self._apply_writes() and not self._copy_region():
                    self._wait(Wait.IDLE if self._may_copy() else Wait.CAP)
        except KvmoveError as error:
            reason = error.detail
            self._engine.failed(error)
        except Exception as error:
            log.exception("%s failed", self.name)
            reason = repr(error)
            self._engine.failed(MoveFailed(f"the copy within the host failed: {error!r}"))
        finally:
            self.times.closed(time.monotonic(), TcpInfo(), 0)
            self._engine.stream_closed(self, reason)

    def wake(self) -> None:
        """See `worker.Worker`."""
        self._look.set()

    def tcp_info(self) -> TcpInfo:
        """See `worker.Worker`: it has no connection."""
        return TcpInfo()

    def _wait(self, why: Wait) -> None:
        began = time.monotonic()
        self._look.wait(LINGER)
        self._look.clear()
        self.times.waited[why] += time.monotonic() - began

    def _may_copy(self) -> bool:
        return self._engine.bandwidth.may_send_bulk(in_turn=self._is_bulks_turn)

    def cut(self) -> None:
        """See `worker.Worker`: a read or write under way is waited for, nothing can break it off."""

    # Mirrored writes.

    def _apply_writes(self) -> bool:
        """Apply the mirrored writes that are next; False when bulk data is."""
        with self._engine.lock:
            self._is_bulks_turn = self._dispatcher.streams[self.number].bulk_is_next
            may = self._engine.bandwidth.may_send_writes()
            pieces = self._dispatcher.take_writes(self.number, BATCH) if may else []
        for piece in pieces:
            self._apply(piece)
            self._engine.bandwidth.sent_writes(piece.weight)
        if pieces:
            self._acknowledge(len(pieces))
        return bool(pieces)

    def _apply(self, piece: WritePiece) -> None:
        target = self._offloads[piece.write.disk].target
        if piece.payload is None:
            target.write_zeroes(piece.offset, piece.length)
        else:
            target.write_at(piece.offset, memoryview(piece.payload))
        self._wrote(piece.length)

    # Bulk.

    def _copy_region(self) -> bool:
        """Copy the next region; False when there is none, or none may be begun now."""
        if not self._may_copy():
            return False
        with self._engine.lock:
            copy = self._dispatcher.claim_region(self.number)
        if copy is None:
            return False
        source = self._offloads[copy.disk].source
        for extent in chain.from_iterable(source.extents(*span) for span in copy.spans()):
            self._let_writes_go()
            if self._engine.stopping.is_set() or not self._copy_extent(copy, extent):
                return True
        with self._engine.lock:
            self._dispatcher.bulk_handed(copy)
        self._engine.progress_made()
        return True

    def _let_writes_go(self) -> None:
        """Apply the mirrored writes that are there, until bulk data may follow."""
        while not self._engine.stopping.is_set():
            if not self._apply_writes():
                if self._may_copy():
                    return
                self._wait(Wait.CAP)

    def _copy_extent(self, copy: RegionCopy, extent: Extent) -> bool:
        """False if the copy was abandoned, and nothing more of it may be done."""
        offload = self._offloads[copy.disk]
        if copy.untouched and not extent.is_data:
            return True
        with self._engine.lock:
            if not self._dispatcher.frames_queued(copy, 1, extent.length if extent.is_data else 0):
                return False
        if extent.is_data:
            rung = offload.move(extent.offset, extent.length, untouched=copy.untouched)
            if rung is not Rung.REFLINK:  # which moves no data
                self._engine.bandwidth.sent_bulk(extent.length)
        else:
            offload.target.write_zeroes(extent.offset, extent.length)
        self._wrote(extent.length)
        self._acknowledge(1)
        return True

    def _acknowledge(self, count: int) -> None:
        self._applied += count
        with self._engine.lock:
            self._dispatcher.acknowledged(self.number, self._applied)
        self._engine.progress_made()
