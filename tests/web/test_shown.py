"""What the page shows of a stream that the test made: names that are meant to harm, and very many things."""

import json
import sys
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from playwright.async_api import Request, Route

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

TRIES = """"><img src=x onerror="window.harmed=1"><script>window.harmed=1</script>{{7*7}}${window.harmed=1}"""
HOSTILE = f"{TRIES}\u202e\u2067right to left".ljust(255, "x")
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
            await unharmed(at, path)
            for field in await at.page.locator("main input:is([type=text], [type=search], :not([type]))").all():
                await field.fill(HOSTILE)
            await unharmed(at, f"{path}, typed")
        for path in ("tasks", "vms", "hosts", "move?vm=", "network?from="):
            await at.show(path + ("" if path.endswith("=") else "/") + quote(HOSTILE, safe=""))
            await unharmed(at, f"{path} of the address")
        assert at.faults == []


async def unharmed(at: AtPage, where: str) -> None:
    """The page stands, nothing of a hostile text has become more than text, and it fits the window."""
    await at.page.get_by_role("heading", level=1).wait_for()
    await at.page.wait_for_timeout(300)
    assert await at.page.evaluate("window.harmed") is None, where
    assert await at.page.locator("img[src=x]").count() == 0, where
    assert await at.too_wide() <= 0, where


@pytest.mark.parametrize("width", [1280, 390])
async def test_axe_finds_nothing_serious(width: int) -> None:
    async with (
        tidy_lab(bare_spec("weba")) as lab,
        browser(lab, viewport={"width": width, "height": 844}) as at,
    ):
        ended = samples.task(TaskState.FAILED, id="two")
        await tell(at, stream(host(), samples.vm(), samples.task(TaskState.RUNNING), ended))
        for path in (*PAGES, "tasks/two"):
            await at.show(path)
            await at.page.get_by_role("heading", level=1).wait_for()
            assert await at.grave() == [], path
            assert await at.too_wide() <= 0, path
        await at.click("Log out")
        await at.page.get_by_label("Token").wait_for()
        assert await at.grave() == [], "the login"


async def test_a_thousand_vms_and_fifty_tasks_are_smooth() -> None:
    vms = [
        samples.vm(definition=samples.definition(f"vm{number}", UUID(int=number + 1))) for number in range(1000)
    ]  # fmt: skip
    tasks = [samples.task(TaskState.RUNNING, id=f"task{number}") for number in range(50)]
    async with tidy_lab(bare_spec("webm")) as lab, browser(lab) as at:
        loaded: list[Request] = []
        at.page.on("requestfinished", lambda request: loaded.append(request) if "/api/" not in request.url else None)
        live = {"first": stream(host(), *vms, *tasks), "tasks": [json.loads(it.model_dump_json()) for it in tasks]}
        await at.page.add_init_script(f"({LIVE})({json.dumps(live)})")
        await at.page.reload()
        await at.sees("1000 / 1000")
        size = sum([(await it.sizes())["responseBodySize"] for it in loaded])
        sys.stdout.write(f"first load: {size / 1000:.0f} KB\n")
        assert size < 200_000
        assert await at.page.locator("#inventory tbody tr").count() < 60, "only what is in sight is drawn"
        await long_tasks(at, "while fifty tasks go on", "await new Promise((done) => setTimeout(done, 10_000))")
        await long_tasks(at, "while it is scrolled too", SCROLL)
        await at.page.get_by_label("Search VMs").fill("vm999")
        await at.sees("1 of 1000")
        assert await at.page.evaluate("window.told") > 20 * len(tasks), "the tasks went on all the time"
        assert at.faults == []


async def long_tasks(at: AtPage, when: str, doing: str) -> None:
    """Count and print what kept the page from answering for more than 50 ms."""
    found = await at.page.evaluate(f"""async () => {{
        const found = [];
        new PerformanceObserver((list) => found.push(...list.getEntries().map((it) => it.duration)))
            .observe({{type: "longtask"}});
        const median = await (async () => {{ {doing} }})();
        return {{found, median}};
    }}""")
    frame = f"; median frame {found['median']:.0f} ms" if found["median"] is not None else ""
    sys.stdout.write(
        f"long tasks {when}: {len(found['found'])}, the longest {max(found['found'], default=0):.0f} ms{frame}\n"
    )


LIVE = """({first, tasks}) => {
    const real = window.fetch, text = new TextEncoder();
    window.told = 0;
    window.fetch = (what, how) => {
        if (String(what).includes("/api/v1/tasks")) return Promise.resolve(new Response("[]"));
        if (!String(what).includes("/api/v1/events")) return real(what, how);
        let turn = 0;
        return Promise.resolve(new Response(new ReadableStream({start(out) {
            out.enqueue(text.encode(first));
            setInterval(() => {
                turn += 1;
                for (const task of tasks) {
                    task.revision += 1;
                    if (task.progress) task.progress.percent = Math.min(99, turn);
                    const event = {revision: 1e6 + window.told++, time: task.created, change: "updated",
                        topic: "task", key: task.id, lasting: false, what: "", task};
                    const data = JSON.stringify(event);
                    out.enqueue(text.encode(`event: task\\nid: ${event.revision}\\ndata: ${data}\\n\\n`));
                }
            }, 500);
        }})));
    };
}"""
"""The page's stream without a network: all at first, then each task twice a second."""

SCROLL = """
    const body = document.querySelector(".table-body"), frames = [];
    let before = performance.now();
    for (let turn = 0; turn < 60; turn += 1) {
        body.scrollTop = turn * 400;
        await new Promise(requestAnimationFrame);
        frames.push(performance.now() - before);
        before = performance.now();
    }
    return frames.sort((a, b) => a - b)[30];
"""
