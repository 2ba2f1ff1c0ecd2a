"""The QMP client against a server that misbehaves as told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kvmove.errors import QemuError, Unreachable
from kvmove.qemu.monitor import EVENTS_KEPT, Event, Monitor
from tests.support.fake_qmp import FakeQmp, fake_qmp


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeQmp]:
    async with fake_qmp(tmp_path / "qmp") as server:
        yield server


@pytest.fixture
async def monitor(fake: FakeQmp, tmp_path: Path) -> AsyncIterator[Monitor]:
    connected = await Monitor.connect(tmp_path / "qmp")
    yield connected
    await connected.close()


async def test_connecting_reads_the_greeting_and_negotiates_without_oob(monitor: Monitor, fake: FakeQmp) -> None:
    assert monitor.greeting["version"]["qemu"]["major"] == 7
    assert fake.commands == [{"execute": "qmp_capabilities", "id": 1}]


async def test_oob_is_enabled_only_when_asked_for(fake: FakeQmp, tmp_path: Path) -> None:
    monitor = await Monitor.connect(tmp_path / "qmp", oob=True)
    await monitor.execute_oob("yank", {"instances": []})
    await monitor.close()
    assert fake.commands[0]["arguments"] == {"enable": ["oob"]}
    assert fake.commands[1]["exec-oob"] == "yank"


async def test_a_command_returns_what_qemu_returns(monitor: Monitor, fake: FakeQmp) -> None:
    fake.answers["query-status"] = {"return": {"status": "paused"}}
    assert await monitor.execute("query-status") == {"status": "paused"}


async def test_a_refusal_names_command_class_and_reason(monitor: Monitor, fake: FakeQmp) -> None:
    fake.answers["cont"] = {"error": {"class": "GenericError", "desc": 'Failed to get "write" lock'}}
    with pytest.raises(QemuError, match='refused cont: Failed to get "write" lock') as caught:
        await monitor.execute("cont")
    assert (caught.value.command, caught.value.error_class) == ("cont", "GenericError")


async def test_answers_out_of_order_reach_their_callers(monitor: Monitor, fake: FakeQmp) -> None:
    fake.answers |= {"first": None, "second": {"return": 2}}
    first = asyncio.create_task(monitor.execute("first"))
    assert await monitor.execute("second") == 2
    fake.send({"return": 1, "id": next(c["id"] for c in fake.commands if c["execute"] == "first")})
    assert await first == 1


async def test_silence_ends_at_the_deadline_and_a_late_answer_is_nobodys(monitor: Monitor, fake: FakeQmp) -> None:
    fake.answers["stop"] = None
    with pytest.raises(Unreachable, match=r"did not answer stop within 0\.05 s"):
        await monitor.execute("stop", timeout=0.05)
    fake.send({"return": {"late": True}, "id": fake.commands[-1]["id"]})
    fake.answers["query-status"] = {"return": {"status": "paused"}}
    assert await monitor.execute("query-status") == {"status": "paused"}


async def test_the_end_of_qemu_fails_a_waiting_command_at_once(monitor: Monitor, fake: FakeQmp) -> None:
    def hang_up(request: dict[str, Any]) -> None:
        fake.hang_up()

    fake.answers["stop"] = hang_up
    with pytest.raises(Unreachable, match="before it answered stop"):
        await monitor.execute("stop", timeout=30)
    assert monitor.lost is not None


async def test_a_command_to_a_lost_qemu_is_not_sent(monitor: Monitor, fake: FakeQmp) -> None:
    fake.hang_up()
    await monitor.wait_lost()
    with pytest.raises(Unreachable, match="cont was not sent"):
        await monitor.execute("cont")


async def test_nobody_at_the_socket_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="nobody answers"):
        await Monitor.connect(tmp_path / "absent")


async def test_a_qemu_that_does_not_greet_is_unreachable(fake: FakeQmp, tmp_path: Path) -> None:
    fake.greets = False
    with pytest.raises(Unreachable, match="does not greet"):
        await Monitor.connect(tmp_path / "qmp", timeout=0.05)


async def test_a_cancelled_command_leaves_the_monitor_usable(monitor: Monitor, fake: FakeQmp) -> None:
    fake.answers["stop"] = None
    waiting = asyncio.create_task(monitor.execute("stop"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await monitor.execute("query-version") == {}


async def test_an_event_that_came_before_the_waiter_is_found_by_its_number(monitor: Monitor, fake: FakeQmp) -> None:
    since = monitor.sequence
    fake.event("STOP")
    fake.event("RESUME", detail=7)
    await monitor.execute("query-status")
    event = await monitor.wait_event("RESUME", timeout=1, since=since)
    assert event == Event(2, "RESUME", {"detail": 7}, 1.5)


async def test_without_a_number_only_new_events_count(monitor: Monitor, fake: FakeQmp) -> None:
    fake.event("STOP", round=1)
    await monitor.execute("query-status")
    waiting = asyncio.create_task(monitor.wait_event("STOP", timeout=5))
    await asyncio.sleep(0)
    fake.event("STOP", round=2)
    assert (await waiting).data == {"round": 2}


async def test_a_waiter_takes_only_what_its_predicate_takes(monitor: Monitor, fake: FakeQmp) -> None:
    fake.event("JOB_STATUS_CHANGE", id="other")
    fake.event("JOB_STATUS_CHANGE", id="mine")
    event = await monitor.wait_event({"JOB_STATUS_CHANGE"}, lambda e: bool(e.data["id"] == "mine"), timeout=5, since=0)
    assert event.sequence == 2


async def test_waiting_for_an_event_ends_at_the_deadline(monitor: Monitor) -> None:
    with pytest.raises(Unreachable, match="sent no MIGRATION/STOP within"):
        await monitor.wait_event(("STOP", "MIGRATION"), timeout=0.05)


async def test_waiting_for_an_event_ends_with_qemu(monitor: Monitor, fake: FakeQmp) -> None:
    waiting = asyncio.create_task(monitor.wait_event("STOP", timeout=30))
    await asyncio.sleep(0)
    fake.hang_up()
    with pytest.raises(Unreachable, match="is gone"):
        await waiting


async def test_the_last_event_before_the_end_is_not_lost(monitor: Monitor, fake: FakeQmp) -> None:
    fake.event("SHUTDOWN")
    fake.hang_up()
    await monitor.wait_lost()
    assert (await monitor.wait_event("SHUTDOWN", timeout=1, since=0)).sequence == 1


async def test_the_ring_forgets_the_oldest_events(monitor: Monitor, fake: FakeQmp) -> None:
    for number in range(EVENTS_KEPT + 1):
        fake.event("RTC_CHANGE", number=number)
    await monitor.execute("query-status")
    assert monitor.sequence == EVENTS_KEPT + 1
    oldest = await monitor.wait_event("RTC_CHANGE", timeout=1, since=0)
    assert oldest.data == {"number": 1}


async def test_listeners_hear_every_event_until_taken_off(monitor: Monitor, fake: FakeQmp) -> None:
    heard: list[str] = []
    remove = monitor.on_event(lambda event: heard.append(event.name))
    fake.event("STOP")
    await monitor.execute("query-status")
    remove()
    remove()
    fake.event("RESUME")
    await monitor.execute("query-status")
    assert heard == ["STOP"]


async def test_a_listener_that_fails_harms_nobody(
    monitor: Monitor, fake: FakeQmp, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError(event.name)

    monitor.on_event(fail)
    fake.event("STOP")
    assert (await monitor.wait_event("STOP", timeout=1, since=0)).name == "STOP"
    assert "a listener failed on STOP" in caplog.text


async def test_closing_twice_is_fine_and_frees_waiters(monitor: Monitor) -> None:
    waiting = asyncio.create_task(monitor.wait_event("STOP", timeout=30))
    await asyncio.sleep(0)
    await monitor.close()
    await monitor.close()
    with pytest.raises(Unreachable, match="the monitor was closed"):
        await waiting
