"""One real move, as it is seen from outside: events, figures, and the logs of manager, agents and memory relay."""

import asyncio
import json
import re
from contextlib import aclosing

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kvmove.lab.ledger_vm import LedgerVm
from kvmove.model.event import Event
from kvmove.units import MIB
from tests.support.eventually import eventually
from tests.support.moving_guest import World, world

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

VM = LedgerVm(name="seen", memory=160 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=16, rate=300)
SECRETS = re.compile(r"PRIVATE KEY|\b[0-9a-f]{64}\b")


async def watch(there: World, found: list[Event]) -> None:
    async with aclosing(there.lab.manager.events()) as events:
        async for event in events:
            found += [event] if isinstance(event, Event) else []


def log_of(there: World, name: str) -> list[dict[str, str]]:
    host = there.lab.world if name == "world" else there.lab.host(name)
    daemon = "manager" if name == "world" else "agent"
    (file,) = [file for file in host.log_files if file.name == f"{daemon}.log"]
    text = file.read_text()
    assert not SECRETS.search(text)
    return [json.loads(line) for line in text.splitlines()]


async def test_a_move_is_told_in_events_figures_and_logs() -> None:
    async with world(VM, "observed") as there:
        seen: list[Event] = []
        watching = asyncio.create_task(watch(there, seen))
        moved = await there.move("h2")
        task = moved.task.id
        await eventually(lambda: any("succeeded" in event.what for event in seen))
        await eventually(lambda: any(event.vm and event.vm.host == "h2" for event in seen))
        watching.cancel()
        told = [event.what.rpartition(" is ")[2] for event in seen if event.key == task and event.lasting]
        assert [word for word in told if word.startswith(("prep", "copy", "switch"))][:1] == ["preparing"]
        assert [event.revision for event in seen] == sorted({event.revision for event in seen})

        _, text = await there.lab.manager.raw("GET", "/metrics")
        samples = {
            (sample.name, sample.labels.get("kind", "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert samples["kvmove_migrations_total", "unified"] == 1
        assert samples["kvmove_migration_downtime_seconds_count", "unified"] == 1
        assert samples["kvmove_migration_downtime_seconds_sum", "unified"] > 0
        for host in ("h1", "h2"):
            _, figures = await there.lab.manager.raw("GET", f"/api/v1/hosts/{host}/metrics")
            assert "kvmove_agent_moves_running 0.0" in figures

        logs = {name: log_of(there, name) for name in ("world", "h1", "h2")}
        assert [line["event"] for line in logs["world"] if line.get("task_id") == task]
        streams = [line for line in logs["h1"] if "is open" in line["event"]]
        assert streams
        assert {(line.get("task_id"), line["vm"], line["src"], line["dst"]) for line in streams} == {
            (task, VM.name, "h1", "h2")
        }
        # The first stream opens before the disks are copied; the others may open a moment later.
        assert "preparing" in {line["phase"] for line in streams} <= {"preparing", "copying-disks"}
        for lines in logs.values():
            assert all({"time", "level", "logger", "event"} <= set(line) for line in lines)
            assert not [it for it in lines if task in it["event"] and it.get("task_id") != task]
        assert await there.lab.manager.log("h2") == logs["h2"][-2000:]
        await there.judge("h2")
