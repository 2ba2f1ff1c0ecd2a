"""What the page shows of a stream that the test made: names that are meant to harm, and very many things."""

import json
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from playwright.async_api import Route

from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.model.event import Change, Event, Topic
from kvmove.model.host import HostStatus
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import VmStatus
from kvmove.units import GIB
from tests.support import samples
from tests.support.browser import AtPage, browser
from tests.support.labs import lab_name, tidy_lab

pytestmark = [pytest.mark.lab, pytest.mark.full, pytest.mark.timeout(300)]

HOSTILE = """"><img src=x onerror="window.harmed=1"><script>window.harmed=1</script>{{7*7}}${window.harmed=1}"""
AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
"""Between two frames, on a machine that draws without a graphics card and does much else; one that drew all rows took
a second."""

PAGES = ("", "move", "tasks", "network", "balance", f"tasks/{samples.MOVE_ID}", f"vms/{samples.WEB1}", "hosts/h1")


def host() -> HostStatus:
    return HostStatus(name="h1", control="10.0.0.1:7441", reachable=True, info=samples.host_info("h1"))


def stream(*things: Task | VmStatus | HostStatus) -> str:
    """A reset and these, as the manager sends them."""
    told = ['event: reset\ndata: {"revision": 0, "why": "test"}\n']
    for number, thing in enumerate(things, 1):
        event = Event(
            revision=number, time="2026-11-23T10:00:00Z", change=Change.ADDED, lasting=True, what="", **about(thing)
        )
        told.append(f"event: {event.topic}\nid: {number}\ndata: {event.model_dump_json()}\n")
    return "\n".join(told) + "\n"


def about(thing: Task | VmStatus | HostStatus) -> dict[str, Any]:
    if isinstance(thing, Task):
        return {"topic": Topic.TASK, "key": thing.id, "task": thing}
    if isinstance(thing, VmStatus):
        return {"topic": Topic.VM, "key": str(thing.definition.uuid), "vm": thing}
    return {"topic": Topic.HOST, "key": thing.name, "host": thing}


def spoiled(value: Any, key: str = "") -> Any:
    """The same JSON with HOSTILE in every text that is not a word the page decides by."""
    if isinstance(value, dict):
        return {name: spoiled(it, name) for name, it in value.items()}
    if isinstance(value, list):
        return [spoiled(it, key) for it in value]
    keeps = {"id", "uuid", "state", "phase", "topic", "key", "change", "time", "created", "started", "ended", "regions"}
    return HOSTILE if isinstance(value, str) and key not in keeps else value


async def tell(at: AtPage, body: str) -> None:
    """From the next load on the page gets this stream, and an empty history."""

    async def events(route: Route) -> None:
        await route.fulfill(status=200, content_type="text/event-stream", body=body)

    async def tasks(route: Route) -> None:
        await route.fulfill(status=200, content_type="application/json", body="[]")

    await at.page.route("**/api/v1/events", events)
    await at.page.route("**/api/v1/tasks?*", tasks)
    await at.page.reload()


def bare_spec(purpose: str) -> LabSpec:
    return LabSpec(name=lab_name(purpose), nics=(0,), datastore=DatastoreSpec(size=GIB))


async def test_a_hostile_name_in_every_field_does_nothing_and_axe_finds_nothing_serious() -> None:
    async with tidy_lab(bare_spec("webx")) as lab, browser(lab) as at:
        things = (host(), samples.vm(), samples.task(TaskState.RUNNING), samples.task(TaskState.RUNNING, id="two"))
        lines = stream(*things).split("\n")
        body = "\n".join(
            f"data: {json.dumps(spoiled(json.loads(line[6:])))}" if line.startswith("data: ") else line
            for line in lines
        )
        await tell(at, body)
        for path in PAGES:
            await at.show(path)
            await at.page.get_by_role("heading", level=1).wait_for()
            await at.page.wait_for_timeout(500)
            assert await at.page.evaluate("window.harmed") is None, path
            assert await at.page.locator("img[src=x]").count() == 0, path
        assert at.faults == []
        await tell(at, stream(*things))
        for path in PAGES:
            await at.show(path)
            await at.page.get_by_role("heading", level=1).wait_for()
            for button in ("Dark", "Light"):
                await at.click(button)
                assert await grave(at) == [], (path, button)


async def grave(at: AtPage) -> list[str]:
    """What axe finds that keeps people out."""
    await at.page.evaluate(AXE.read_text())
    found = await at.page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{it['id']}: {[node['html'] for node in it['nodes']][:3]}"
        for it in found["violations"]
        if it["impact"] in ("serious", "critical")
    ]


async def test_a_thousand_vms_and_fifty_tasks_are_smooth() -> None:
    vms = [
        samples.vm(definition=samples.definition(f"vm{number}", UUID(int=number + 1))) for number in range(1000)
    ]  # fmt: skip
    tasks = [samples.task(TaskState.RUNNING, id=f"task{number}") for number in range(50)]
    async with tidy_lab(bare_spec("webm")) as lab, browser(lab) as at:
        await tell(at, stream(host(), *vms, *tasks))
        await at.sees("1000 / 1000")
        assert await at.page.locator("#inventory tbody tr").count() < 60, "only what is in sight is drawn"
        median = await at.page.evaluate(MEDIAN_FRAME)
        sys.stdout.write(f"median frame while scrolling: {median:.0f} ms\n")
        await at.page.get_by_label("Search VMs").fill("vm999")
        await at.sees("1 of 1000")
        assert at.faults == []


MEDIAN_FRAME = """async () => {
    const body = document.querySelector(".table-body"), frames = [];
    let before = performance.now();
    for (let turn = 0; turn < 60; turn += 1) {
        body.scrollTop = turn * 400;
        await new Promise(requestAnimationFrame);
        frames.push(performance.now() - before);
        before = performance.now();
    }
    return frames.sort((a, b) => a - b)[30];
}"""
