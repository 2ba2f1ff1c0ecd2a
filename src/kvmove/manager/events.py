"""The manager's events: what changed, in order, for any number of readers at their own pace.

Invariants:
- Revisions only grow. They begin at the clock's microseconds, so those of a later start are above those of an earlier
  one; an id from before the start is too old, or (a clock set back) not known, and both are answered with a reset.
- A reader that goes on after revision r gets every change of state after r, and of figures that run on the last ones,
  or else a reset and the whole present state: hosts, VMs, and the tasks that have not ended. It never ends up with an
  old state of anything.
- Memory is bounded: the newest `keep` changes of state are kept, and one change of figures for each thing. Readers
  hold a position, no queue of their own.

Lives on one event loop. It asks nobody: `tasks`, `vms` and `hosts` are told to it (see `observed`).
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import takewhile

from kvmove.manager.event_words import Thing, gone_words, same_state, words
from kvmove.model.event import Change, Event, Reset, Topic
from kvmove.model.host import HostStatus
from kvmove.model.task import Task
from kvmove.model.vm import VmStatus

KEEP = 2000
EVERYTHING = frozenset(Topic)

_Key = tuple[Topic, str]


class EventLog:
    """All that readers may want to know. `now` gives seconds since 1970."""

    def __init__(self, keep: int = KEEP, now: Callable[[], float] = time.time) -> None:
        self._keep = keep
        self._now = now
        self._revision = int(now() * 1_000_000)
        self._forgotten = self._revision  # nothing up to here is kept
        self._gap_until = _rfc3339(now())
        self._kept: OrderedDict[int, Event] = OrderedDict()
        self._present: dict[_Key, Event] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def close(self) -> None:
        """Let all readers end, now and from now on."""
        self._closed = True
        self._wake()

    def task(self, task: Task) -> None:
        """The task is so now. One that has ended is told once more and is no part of the present state then."""
        self._see(Topic.TASK, task.id, task)
        if task.ended_state:
            self._present.pop((Topic.TASK, task.id), None)

    def vms(self, vms: Iterable[VmStatus]) -> None:
        """These are all VMs now."""
        self._see_all(Topic.VM, {str(vm.definition.uuid): vm for vm in vms})

    def hosts(self, hosts: Iterable[HostStatus]) -> None:
        """These are all hosts now."""
        self._see_all(Topic.HOST, {host.name: host for host in hosts})

    @property
    def first_kept(self) -> str:
        """Since when changes of state are remembered without a gap; RFC 3339."""
        return self._gap_until

    def since(self, moment: str, topics: frozenset[Topic] = EVERYTHING) -> list[Event]:
        """The changes of state that are remembered since `moment` (RFC 3339), oldest first."""
        begin = datetime.fromisoformat(moment)
        return [
            event
            for event in self._kept.values()
            if event.lasting and event.topic in topics and datetime.fromisoformat(event.time) >= begin
        ]

    async def read(
        self, after: int | None = None, topics: frozenset[Topic] = EVERYTHING
    ) -> AsyncIterator[Event | Reset]:
        """Every event after revision `after`, for ever; with None, or too old a revision, a reset comes first."""
        while not self._closed:
            changed = self._changed
            if after is None or not self._forgotten <= after <= self._revision:
                yield Reset(revision=self._revision, why=self._why(after))
                batch, after = self._all_present(), self._revision
            else:
                batch, after = self._after(after), self._revision
            for event in batch:
                if event.topic in topics and not self._superseded(event):
                    yield event
            if after == self._revision and not self._closed:
                await changed.wait()

    def _why(self, after: int | None) -> str:
        if after is None:
            return "this is the beginning"
        return "too much has happened since" if after < self._forgotten else "this manager gave no such revision"

    def _all_present(self) -> list[Event]:
        return sorted(self._present.values(), key=lambda event: event.revision)

    def _after(self, revision: int) -> list[Event]:
        newer = takewhile(lambda event: event.revision > revision, reversed(self._kept.values()))
        return list(newer)[::-1]

    def _superseded(self, event: Event) -> bool:
        """Whether what a slow reader would get now is old: figures of which there are newer ones on their way."""
        if event.lasting:
            return False
        present = self._present.get((event.topic, event.key))
        return present is None or present.revision > event.revision

    def _see_all(self, topic: Topic, seen: Mapping[str, VmStatus | HostStatus]) -> None:
        for key in [key for kind, key in self._present if kind is topic and key not in seen]:
            self._remove((topic, key))
        for key, thing in seen.items():
            self._see(topic, key, thing)

    def _see(self, topic: Topic, key: str, now: Thing) -> None:
        last = self._present.get((topic, key))
        before = None if last is None else _thing(last)
        if before is now or before == now:
            return
        change = Change.ADDED if before is None else Change.CHANGED
        lasting = before is None or not same_state(before, now)
        self._append(self._event((topic, key), change, lasting, words(before, now), now), last)

    def _remove(self, key: _Key) -> None:
        last = self._present.get(key)
        if last is not None:
            thing = _thing(last)
            self._append(self._event(key, Change.REMOVED, True, gone_words(thing), thing), last)
            del self._present[key]

    def _event(self, key: _Key, change: Change, lasting: bool, what: str, thing: Thing) -> Event:
        self._revision += 1
        topic, name = key
        return Event(
            revision=self._revision, time=_rfc3339(self._now()), topic=topic, key=name, change=change,
            lasting=lasting, what=what, task=thing if isinstance(thing, Task) else None,
            vm=thing if isinstance(thing, VmStatus) else None, host=thing if isinstance(thing, HostStatus) else None,
        )  # fmt: skip

    def _append(self, event: Event, last: Event | None) -> None:
        """Take up an event, let go of the figures that it supersedes and of what is too old."""
        if last is not None and not last.lasting:
            self._kept.pop(last.revision, None)
        self._kept[event.revision] = event
        self._present[event.topic, event.key] = event
        while len(self._kept) > self._keep + len(self._present):
            self._forgotten, forgotten = self._kept.popitem(last=False)
            self._gap_until = forgotten.time
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _thing(event: Event) -> Thing:
    thing = event.task or event.vm or event.host
    assert thing is not None
    return thing


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
