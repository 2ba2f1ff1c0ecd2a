"""The log of events: order, what a slow reader may miss and what never, and the door to it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.client.manager import ManagerClient
from kvmove.errors import InvalidInput
from kvmove.manager.events import EventLog
from kvmove.model.event import Change, Event, Reset, Topic
from kvmove.model.host import HostStatus
from kvmove.model.move import Phase
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import VmState
from tests.support import samples
from tests.support.samples import DB1
from tests.unit.manager.conftest import Served


def host(name: str = "h1", *, up: bool = True, free: int = 1) -> HostStatus:
    info = samples.host_info(name).model_copy(update={"memory_free": free})
    return HostStatus(name=name, control="10.0.0.1:7441", reachable=up, info=info, reason="" if up else "no answer")


def task(percent: float = 1.0, phase: Phase = Phase.COPYING_DISKS, **more: Any) -> Task:
    return samples.task().model_copy(update={"progress": samples.progress(phase, percent), **more})


class Reader:
    """Reads as far as there is something, and no further."""

    def __init__(self, log: EventLog, after: int | None = None, topics: frozenset[Topic] = frozenset(Topic)) -> None:
        self._stream: AsyncIterator[Event | Reset] = log.read(after, topics)
        self._next: asyncio.Task[Event | Reset] | None = None

    async def one(self) -> Event | Reset | None:
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._stream))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not self._next.done():
            return None
        got, self._next = self._next.result(), None
        return got

    async def all(self) -> list[Event | Reset]:
        found = []
        while (event := await self.one()) is not None:
            found.append(event)
        return found

    async def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)


def said(events: list[Event | Reset]) -> list[str]:
    return ["reset" if isinstance(event, Reset) else event.what for event in events]


async def test_a_new_reader_gets_a_reset_the_present_state_and_then_what_changes() -> None:
    log = EventLog()
    log.hosts([host()])
    log.vms([samples.vm()])
    reader = Reader(log)
    assert said(await reader.all()) == ["reset", "host h1 answers", "web1 is running on h1"]
    log.hosts([host(up=False)])
    log.vms([samples.vm("h2", epoch=2)])
    assert said(await reader.all()) == ["host h1 does not answer: no answer", "web1 is running on h2, was on h1"]
    log.vms([])
    (gone,) = await reader.all()
    assert isinstance(gone, Event)
    assert (gone.change, gone.vm and gone.vm.host) == (Change.REMOVED, "h2")
    await reader.close()


async def test_figures_that_run_on_are_told_once_to_a_slow_reader_and_changes_of_state_each() -> None:
    log = EventLog()
    log.task(task(0))
    reader = Reader(log)
    await reader.all()
    for percent in range(1, 50):
        log.task(task(percent))
    log.task(task(50, Phase.COPYING_MEMORY))
    for percent in range(51, 60):
        log.task(task(percent, Phase.COPYING_MEMORY))
    got = [event for event in await reader.all() if isinstance(event, Event)]
    assert [(event.lasting, event.task and event.task.progress and event.task.progress.percent) for event in got] == [
        (True, 50),
        (False, 59),
    ]
    await reader.close()


async def test_figures_that_run_on_push_no_change_of_state_out() -> None:
    log = EventLog(keep=3)
    log.hosts([host()])
    for free in range(100):
        log.hosts([host(free=free)])
    assert [event.what for event in log.since("2000-01-01T00:00:00+00:00")] == ["host h1 answers"]


async def test_what_became_old_while_a_reader_was_busy_is_not_sent_any_more() -> None:
    log = EventLog()
    log.hosts([host("h1"), host("h2")])
    reader = Reader(log)
    await reader.all()
    log.hosts([host("h1", free=2), host("h2", free=2)])
    first = await reader.one()
    assert isinstance(first, Event)
    log.hosts([host("h1", free=2), host("h2", free=3)])
    rest = await reader.all()
    (second,) = rest
    assert isinstance(second, Event)
    assert second.host == host("h2", free=3)
    await reader.close()


async def test_an_ended_task_is_told_and_is_no_part_of_the_present() -> None:
    log = EventLog()
    log.task(task())
    old = Reader(log)
    await old.all()
    log.task(task(state=TaskState.SUCCEEDED, vm_state="running on h2"))
    assert said(await old.all()) == ["move of web1 from h1 to h2 succeeded; the VM is running on h2"]
    new = Reader(log)
    assert said(await new.all()) == ["reset"]
    await old.close()
    await new.close()


async def test_a_reader_that_comes_back_gets_what_it_missed_or_a_reset() -> None:
    log = EventLog(keep=3)
    log.vms([samples.vm()])
    first = Reader(log)
    seen = [event for event in await first.all() if isinstance(event, Event)][-1].revision
    await first.close()
    log.vms([samples.vm(state=VmState.PAUSED)])
    log.vms([samples.vm()])
    again = Reader(log, seen)
    assert said(await again.all()) == ["web1 is paused on h1, was running", "web1 is running on h1, was paused"]
    await again.close()
    for _ in range(5):
        log.vms([samples.vm(state=VmState.PAUSED)])
        log.vms([samples.vm()])
    late = Reader(log, seen)
    assert said(await late.all())[0] == "reset"
    await late.close()
    unknown = Reader(log, seen + 10**9)
    assert said(await unknown.all())[0] == "reset"
    await unknown.close()


async def test_an_id_of_the_managers_last_life_leads_to_a_reset() -> None:
    clock = [1000.0]
    before = EventLog(now=lambda: clock[0])
    before.hosts([host()])
    reader = Reader(before)
    last = (await reader.all())[-1].revision
    await reader.close()
    clock[0] += 1
    after = EventLog(now=lambda: clock[0])
    after.hosts([host()])
    again = Reader(after, last)
    assert said(await again.all()) == ["reset", "host h1 answers"]
    await again.close()


async def test_readers_end_when_the_log_is_closed() -> None:
    log = EventLog()
    reading = asyncio.ensure_future(anext(log.read(log_head(log))))
    await asyncio.sleep(0)
    log.close()
    with pytest.raises(StopAsyncIteration):
        await reading


def log_head(log: EventLog) -> int:
    log.hosts([host()])
    return log.since("2000-01-01T00:00:00+00:00")[-1].revision


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("host"), st.booleans(), st.integers(0, 3)),
        st.tuples(st.just("vm"), st.sampled_from(["h1", "h2", ""]), st.integers(0, 1)),
        st.tuples(st.just("read"), st.integers(0, 2), st.integers(1, 4)),
        st.tuples(st.just("reconnect"), st.integers(0, 2), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
async def test_however_slow_a_reader_it_ends_with_what_is_and_in_order(steps: list[tuple[str, Any, Any]]) -> None:
    log = EventLog(keep=4)
    readers = [Reader(log) for _ in range(3)]
    views: list[dict[str, Any]] = [{} for _ in readers]
    last = [0] * 3
    hosts, vms = host(), [samples.vm()]

    def take(number: int, event: Event | Reset) -> None:
        if isinstance(event, Reset):
            views[number].clear()
            last[number] = 0
            return
        assert event.revision > last[number]
        last[number] = event.revision
        if event.change is Change.REMOVED:
            views[number].pop(event.key, None)
        else:
            views[number][event.key] = event.vm or event.host

    for kind, one, two in steps:
        if kind == "host":
            hosts = host(up=one, free=two)
            log.hosts([hosts])
        elif kind == "vm":
            vms = ([samples.vm(one)] if one else []) + [samples.vm(definition=samples.definition("db1", DB1))] * two
            log.vms(vms)
        elif kind == "read":
            for _ in range(two):
                if (event := await readers[one].one()) is not None:
                    take(one, event)
        else:
            await readers[one].close()
            readers[one] = Reader(log, last[one] or None)
    log.hosts([hosts])
    log.vms(vms)
    for number, reader in enumerate(readers):
        for event in await reader.all():
            take(number, event)
        assert views[number] == {hosts.name: hosts} | {str(vm.definition.uuid): vm for vm in vms}
        await reader.close()


async def events_until(client: ManagerClient, wanted: str, after: int | None = None) -> list[Event | Reset]:
    found: list[Event | Reset] = []
    async for event in client.events(after=after):
        found.append(event)
        if not isinstance(event, Reset) and wanted in event.what:
            return found
    return found


async def test_the_stream_over_the_real_door_resumes_where_it_was_left(served: Served) -> None:
    async with served.client() as client:
        await client.vms()
        first = await events_until(client, "web1 is running on h1")
        assert isinstance(first[0], Reset)
        served.h1.status_of_vms = [samples.vm(state=VmState.PAUSED)]
        await client.vms()
        again = await events_until(client, "web1 is paused", first[-1].revision)
        assert said(again) == ["web1 is paused on h1, was running"]


async def test_what_was_is_told_with_how_far_back_it_goes(served: Served) -> None:
    async with served.client("ann") as client:
        await client.vms()
        past = await client.past_events("2020-01-01T00:00:00+00:00", (Topic.VM,))
        assert [event.what for event in past.events] == ["web1 is running on h1"]
        assert past.complete_since > "2020"
        assert (await client.past_events("2999-01-01T00:00:00+00:00")).events == ()
        with pytest.raises(InvalidInput, match="since"):
            await client.past_events("yesterday")
