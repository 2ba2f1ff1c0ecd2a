"""All disks of one move at the source: mirrors in, streams out, one lock around the decisions.

The streams lead to another host (Sender), or to other disks of this one (`within_host`, LocalCopy). Threads: one per
mirror (NbdServer), one per stream besides its reader, one that watches the time. The asyncio side calls `start`,
`start_copy`, `snapshot`, `wait_settled` and `stop`; nothing here knows who speaks QMP or who runs the move.

`guest_waits` says whether a guest's write waits for the answer to its mirrored one (qemu.block_jobs, copy modes).

Promise to the guest: every mirrored write is answered, at the latest after the dispatcher's budget; should that
ever fail, `write_deadline` cuts the mirror's connection, which ends the move and never the guest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from kvmove.disk.interface import SourceDisk
from kvmove.disk.offload import Offload
from kvmove.errors import KvmoveError, MoveFailed, Unreachable
from kvmove.log_context import inherited
from kvmove.model.move import Route
from kvmove.mover.background_sync import BackgroundSync
from kvmove.mover.dispatcher import Dispatcher, Limits
from kvmove.mover.guest_impact import P50, P99, GuestImpact
from kvmove.mover.local_copy import LocalCopy
from kvmove.mover.mirror import Mirror
from kvmove.mover.move_terms import CopyTerms, MoverSettings, MovingDisk
from kvmove.mover.nic_watch import NicWatch
from kvmove.mover.region_picture import picture
from kvmove.mover.sender import Sender
from kvmove.mover.snapshot import DiskSnapshot, NicTotals
from kvmove.mover.time_spent import MoveFigures, ReadTimes, StreamFigures, local_times
from kvmove.mover.worker import Worker
from kvmove.transport.link import is_down
from kvmove.transport.stream import Stream, StreamLost

log = logging.getLogger(__name__)

REGION_SIZE = 1024 * 1024
"""Bytes. One region is 9 ms of a 1 Gbit/s wire: what a write to a region being copied waits before it is sent, and
what is copied again for one lost write."""

WATCH_INTERVAL = 0.05
WAKE_BYTES = 64 * 1024
"""Queued mirrored bytes from which a stream is woken at once instead of finding them when it looks."""

LOCAL_WORKERS = 2
"""Workers of a move within a host: while one waits for the target's storage the other has the source's busy."""


@dataclass(slots=True)
class _Closed:
    """What NICs sent over streams that are no more."""

    sent: dict[str, int] = field(default_factory=dict)


class DiskMove:
    """See the file's head. `dial` opens a stream (StreamLost when it cannot) over a route with a number."""

    def __init__(
        self,
        disks: Sequence[MovingDisk],
        routes: Sequence[Route],
        dial: Callable[[Route, int], Stream],
        settings: MoverSettings,
        terms: CopyTerms | None = None,
    ) -> None:
        terms = terms or CopyTerms()
        per_disk = max(settings.forward_buffer // max(len(disks), 1), 4 * REGION_SIZE)
        limits = Limits(high_mark=per_disk, low_mark=per_disk // 4, budget=settings.budget)
        self.lock = threading.Lock()
        self.dispatcher = Dispatcher([disk.terms() for disk in disks], REGION_SIZE, limits)
        self.disks: Sequence[SourceDisk] = [disk.source for disk in disks]
        self.stopping = threading.Event()
        self.bandwidth = terms.bandwidth
        self.compression = terms.compression
        self.times = ReadTimes(len(disks))
        self._impact = GuestImpact(len(disks), terms.max_hold)
        self._impact_lock = threading.Lock()
        self.failure: KvmoveError | None = None
        self._settings = settings
        self._dial = dial
        self._changed = threading.Condition(self.lock)
        self._waiters = 0
        self._numbers = 0
        self._by_number: dict[int, Worker] = {}
        self._closed = _Closed()
        self._without_stream_since = time.monotonic()
        self._mirrors = [Mirror(self, number) for number in range(len(disks))]
        self._mirrors_may_end = False
        self.guest_waits = True
        self._offloads: Sequence[Offload] = ()
        self._syncer = BackgroundSync((), self.failed)
        senders = [
            Sender(self, route.nic, self._opener(route), slot)
            for route in routes
            for slot in range(settings.streams_per_route)
        ]
        self._workers: list[Worker] = [*senders]
        self.nics = NicWatch(senders, self.dispatcher, self.lock, is_down)
        self._watch = threading.Thread(target=inherited(self._watch_time), name="move-watch", daemon=True)

    @classmethod
    def within_host(
        cls,
        disks: Sequence[MovingDisk],
        offloads: Sequence[Offload],
        settings: MoverSettings,
        terms: CopyTerms | None = None,
    ) -> Self:
        """A move of disks between datastores of this host: each as its offload, of the same source, moves it.

        The offloads' files stay the caller's, to be closed after `stop`. What is applied is synced in the background;
        `sync_targets` does the rest.
        """
        move = cls(disks, (), _no_route, settings, terms)
        move._offloads = offloads
        move._syncer = BackgroundSync(offloads, move.failed)
        move._workers = [LocalCopy(move, offloads, move._syncer.wrote) for _ in range(LOCAL_WORKERS)]
        return move

    def _opener(self, route: Route) -> Callable[[int], Stream]:
        def open_stream(slot: int) -> Stream:
            del slot
            number = self.new_number()
            stream = self._dial(route, number)
            stream.number = number
            return stream

        return open_stream

    # The procedure's side.

    def start(self, timeout: float) -> None:
        """Open the streams; return once one is open.

        :raise Unreachable: none could be opened within `timeout` seconds. Call `stop` then too.
        """
        self._without_stream_since = time.monotonic()
        for worker in self._workers:
            worker.start()
        if self._offloads:
            self._syncer.start()
        self._watch.start()
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._by_number and self.failure is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Unreachable(
                        "No migration NIC of the source reaches the destination.",
                        hint="Check the cables and firewalls between the migration networks of both hosts.",
                    )
                self._wait(left)

    def mirror(self, disk: int) -> Mirror:
        """The handler for the NBD server of a disk; set its `server` before the first request."""
        return self._mirrors[disk]

    def start_copy(self) -> None:
        """Begin the bulk copy: only after all mirrors are ready and QEMU has been drained once."""
        with self.lock:
            self.dispatcher.copying = True
        self._wake_all()

    def is_copied(self) -> bool:
        """Whether the bulk copy has nothing left to do now.

        :raise KvmoveError: the move failed.
        """
        with self.lock:
            self._require_no_failure()
            return self.dispatcher.all_copied()

    def wait_copied(self, timeout: float) -> bool:
        """Wait until `is_copied`; False after `timeout` seconds, or when the move is stopped.

        :raise KvmoveError: the move failed.
        """
        deadline = time.monotonic() + timeout
        while not self.is_copied():
            if self.stopping.wait(WATCH_INTERVAL) or time.monotonic() > deadline:
                return False
        return True

    def pause_copy(self, *, paused: bool) -> None:
        """Begin no more regions, or go on. What is copied already stays in step meanwhile."""
        with self.lock:
            self.dispatcher.paused = paused
        self._wake_all()

    def slow_no_more(self) -> None:
        """The guest stands still and waits for what is on its way."""
        with self._impact_lock:
            self._impact.rate_ends()
            self.bandwidth.limit_bulk(None)

    def at_rest(self) -> list[bytes]:
        """Of each disk the regions that need nothing more, as `RegionMap.at_rest` gives them."""
        with self.lock:
            return [disk.regions.at_rest() for disk in self.dispatcher.disks]

    @property
    def alone(self) -> float | None:
        """For how long (seconds) no stream is open; None while one is. After `MoverSettings.give_up` the move fails."""
        since, has_stream = self._without_stream_since, bool(self._by_number)
        return None if has_stream or not self._numbers else time.monotonic() - since

    @property
    def slowed(self) -> tuple[int, float]:
        """The rate to which the copy holds itself now for the guest's sake (bytes/s, 0: none), and for how long it has
        done so in all (seconds)."""
        return self._impact.limit or 0, self._impact.slowed_seconds

    def wait_settled(self, timeout: float) -> bool:
        """Wait until both sides are equal and nothing is on its way; False after `timeout` seconds.

        :raise KvmoveError: the move failed.
        """
        self._wake_all()
        deadline = time.monotonic() + timeout
        with self._changed:
            while self.failure is None and not self.dispatcher.settled():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._wait(left)
            self._require_no_failure()
            return True

    def has_delivered(self) -> bool:
        """Whether both sides are equal. Streams that were lost may have to be fenced: see `wait_settled`.

        :raise KvmoveError: the move failed.
        """
        with self.lock:
            self._require_no_failure()
            return self.dispatcher.delivered()

    def _require_no_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def sync_targets(self) -> None:
        """Make durable what was applied within this host; in a move to another host its destination does that.

        :raise KvmoveError: the storage failed, now or at an earlier sync: the targets cannot be trusted.
        """
        self._syncer.sync()

    def _wait(self, seconds: float) -> None:
        self._waiters += 1
        try:
            self._changed.wait(seconds)
        finally:
            self._waiters -= 1

    def wait_to_block(self, timeout: float) -> str:
        """Wait until the guest's writes should wait for their mirrors; why, or empty after `timeout` seconds.

        :raise KvmoveError: the move failed.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self.lock:
                self._require_no_failure()
                if why := self.dispatcher.why_block():
                    return why
            if self.stopping.wait(WATCH_INTERVAL) or time.monotonic() > deadline:
                return ""

    def expect_mirrors_to_end(self, *, expected: bool) -> None:
        """Whether a mirror that ends is no failure from now on."""
        self._mirrors_may_end = expected

    def mirror_gone(self, disk: int) -> None:
        """The disk's server is closed: nobody waits for its answers any more."""
        with self.lock:
            self.dispatcher.mirror_gone(disk)

    def end(self) -> None:
        """Nothing more will be sent: the threads end by themselves. `stop` later waits for them."""
        self.stopping.set()

    def stop(self) -> None:
        """End all: mirrors are cut (what QEMU still has in flight fails together, and its guest goes on), streams
        closed, threads joined."""
        self._mirrors_may_end = True
        self.stopping.set()
        for mirror in self._mirrors:
            if mirror.server is not None:
                mirror.server.close()
        for worker in self._workers:
            worker.cut()
            worker.wake()
        threads: list[Worker | threading.Thread] = [*self._workers, self._watch]
        for thread in threads:
            if thread.ident not in (None, threading.get_ident()):
                thread.join()
        self._syncer.stop()

    def snapshot(self) -> tuple[list[DiskSnapshot], dict[str, NicTotals]]:
        """Disks and NICs as they are now."""
        with self.lock:
            disks = [
                DiskSnapshot(
                    state.regions.size, state.regions.copied, state.regions.returned, state.mode, state.reason,
                    state.buffered, state.counters.mirrored_bytes, state.counters.sent,
                    state.counters.forwarded, state.counters.ignored,
                    tuple(state.counters.mode_changes),
                    dict(self._offloads[number].moved) if self._offloads else {},
                    (held.percentile(P50), held.percentile(P99), held.worst),
                    held.count, held.total, picture(state.regions.states(), state.regions.went_back()),
                )
                for number, (state, held) in enumerate(zip(self.dispatcher.disks, self._impact.held, strict=True))
            ]  # fmt: skip
            nics = {worker.nic: self.nics.totals(worker.nic) for worker in self._workers if worker.nic}
            for nic, totals in nics.items():
                totals.sent = self._closed.sent.get(nic, 0)
            for worker in self._by_number.values():
                if worker.nic:
                    nics[worker.nic].sent += worker.bytes_sent
                    nics[worker.nic].streams += 1
        return disks, nics

    def figures(self) -> MoveFigures:
        """Where the time went so far."""
        disks = [local_times(it) for it in self._offloads] if self._offloads else self.times.disks
        return MoveFigures(
            self._stream_figures(), disks, [held.total for held in self._impact.held],
            self.bandwidth.bulk_bytes, self.bandwidth.write_bytes,
        )  # fmt: skip

    def _stream_figures(self) -> list[StreamFigures]:
        now = time.monotonic()
        return [worker.times.figures(now, worker.tcp_info(), worker.bytes_sent) for worker in self._workers]

    def _copied(self) -> int:
        """Bytes of the disks' data that were sent, as they are on the disks."""
        return sum(disk.counters.sent for disk in self.dispatcher.disks)

    # The mirrors' side: called in the NBD servers' threads.

    def mirrored(self, disk: int, extent: tuple[int, int], payload: bytes | None, cookie: int) -> None:
        """A guest write arrived; QEMU is answered now or when the dispatcher says so."""
        now = time.monotonic()
        with self.lock:
            at_once = self.dispatcher.mirrored(disk, extent, payload, cookie, now)
            answers = self.dispatcher.take_answers()
            if not at_once and self.guest_waits:
                with self._impact_lock:
                    self._impact.waits(disk, cookie, now)
            to_wake = [
                self._by_number[number]
                for number, stream in self.dispatcher.streams.items()
                if stream.queued_bytes > WAKE_BYTES or (stream.queue and not at_once)
            ]
        if at_once:
            self._mirrors[disk].answer(cookie)
            if self.guest_waits:
                with self._impact_lock:
                    self._impact.answered(disk, time.monotonic() - now)
        self._answer(answers)
        for worker in to_wake:
            worker.wake()

    def discarded(self, disk: int, extent: tuple[int, int]) -> None:
        with self.lock:
            self.dispatcher.unspecified(disk, extent)
            answers = self.dispatcher.take_answers()
        self._answer(answers)
        self._wake_all()

    def mirror_ended(self, disk: int, reason: str) -> None:
        if not self._mirrors_may_end:
            self.failed(MoveFailed(f"The mirror of disk {disk} ended: {reason}."))

    def _answer(self, answers: list[tuple[int, int]]) -> None:
        for disk, mirror in enumerate(self._mirrors):
            cookies = [cookie for at, cookie in answers if at == disk]
            if cookies and mirror.server is not None:
                mirror.server.reply_many(cookies)
        if answers and self.guest_waits:
            now = time.monotonic()
            with self._impact_lock:
                for disk, cookie in answers:
                    self._impact.released(disk, cookie, now)

    # The workers' side.

    def new_number(self) -> int:
        """See `worker.Engine`."""
        with self.lock:
            self._numbers += 1
            return self._numbers - 1

    def stream_opened(self, worker: Worker) -> None:
        """See `worker.Engine`."""
        with self._changed:
            self.dispatcher.add_stream(worker.number)
            self._by_number[worker.number] = worker
            self._changed.notify_all()
        log.info("%s: stream %d is open", worker.name, worker.number)

    def stream_closed(self, worker: Worker, reason: str) -> None:
        """See `worker.Engine`."""
        with self._changed:
            if not self.stopping.is_set():  # in the end there is nobody to give its regions back to
                self.dispatcher.lose_stream(worker.number)
            del self._by_number[worker.number]
            self._closed.sent[worker.nic] = self._closed.sent.get(worker.nic, 0) + worker.bytes_sent
            if not self._by_number:
                self._without_stream_since = time.monotonic()
            answers = self.dispatcher.take_answers()
            self._changed.notify_all()
        self._answer(answers)
        self._wake_all()
        if not self.stopping.is_set():
            log.warning("%s: stream %d was lost: %s", worker.name, worker.number, reason)

    def progress_made(self) -> None:
        """See `worker.Engine`."""
        with self._changed:
            answers = self.dispatcher.take_answers()
            if self._waiters:
                self._changed.notify_all()
        if answers:
            self._answer(answers)

    def failed(self, error: KvmoveError) -> None:
        """See `worker.Engine`. The first failure counts."""
        with self._changed:
            if self.failure is not None or self.stopping.is_set():
                return
            self.failure = error
            self._changed.notify_all()
        log.error("the disks of the move failed: %s", error.detail)

    def _wake_all(self) -> None:
        with self.lock:
            workers = list(self._by_number.values())
        for worker in workers:
            worker.wake()

    # Time.

    def _watch_time(self) -> None:
        try:
            self._keep_watch()
        except Exception as error:  # else no write's deadline would be kept any more
            log.exception("the watch over the disks failed")
            self.failed(MoveFailed(f"the watch over the disks failed by a defect of ours: {error!r}"))

    def _keep_watch(self) -> None:
        while not self.stopping.wait(WATCH_INTERVAL):
            now = time.monotonic()
            with self.lock:
                self.dispatcher.tick(now)
                answers = self.dispatcher.take_answers()
                alone = None if self._by_number else now - self._without_stream_since
            self._answer(answers)
            self._check_deadlines(now)
            self._spare_guest(now)
            self.nics.look(now)
            if not self._offloads:
                self.compression.look(now, self._stream_figures, self._copied)
            if alone is not None and alone > self._settings.give_up:
                self.failed(
                    Unreachable(
                        f"No stream to the destination could be opened for {alone:.0f} s.",
                        hint="Check the migration networks and the destination's agent; then move again.",
                    )
                )

    def _spare_guest(self, now: float) -> None:
        with self._impact_lock:
            is_new, limit = self._impact.look(now, self.bandwidth.bulk_bytes)
            if is_new:
                self.bandwidth.limit_bulk(limit)

    def _check_deadlines(self, now: float) -> None:
        for mirror in self._mirrors:
            oldest = mirror.server.oldest_arrival() if mirror.server is not None else None
            if mirror.server is not None and oldest is not None and now - oldest > self._settings.write_deadline:
                mirror.server.abort(f"a guest write waited for {now - oldest:.1f} s")


def _no_route(route: Route, number: int) -> Stream:
    """A move within a host opens no streams."""
    raise StreamLost(f"stream {number} has no way over {route.nic}")
