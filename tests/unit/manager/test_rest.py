"""The REST interface over its real doors: what it answers, to whom, and how it says no."""

import asyncio
import io
import json
from typing import Any

import aiohttp
import pytest

from kvmove.errors import Busy, CheckFailed, InvalidInput, NotAllowed, NotFound, Unreachable
from kvmove.model.host import HostDatastore
from kvmove.model.log import LogLine
from kvmove.model.move import MoveRequest, Phase
from kvmove.model.priority import Priority
from kvmove.model.task import TaskChange, TaskState
from kvmove.model.terms import TermsChange, TermsOrder
from kvmove.model.vm import VmState
from kvmove.pki.contexts import client_context
from tests.support import samples
from tests.support.samples import DB1
from tests.unit.manager.conftest import Served

REQUEST = MoveRequest(vm="web1", host="h2")


async def raw(served: Served, method: str, path: str, **more: Any) -> tuple[int, str, Any]:
    """Status, media type and body of a request on the socket."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(served.socket))) as session,
        session.request(method, f"http://localhost{path}", **more) as response,
    ):
        return response.status, response.content_type, json.loads(await response.text() or "null")


async def test_root_on_the_socket_and_an_operator_over_tls_see_the_same(served: Served) -> None:
    async with served.client() as local, served.client("ann") as remote:
        for client in (local, remote):
            assert [host.name for host in await client.hosts()] == ["h1", "h2"]
            assert (await client.host("h1")).info == samples.host_info()
            assert await client.vms() == [samples.vm()]
            assert await client.vm("web1") == samples.vm()
            stores = await client.datastores()
            assert stores[0] == HostDatastore(host="h1", **dict(samples.host_info().datastores[0]))
            assert (await client.health())["status"] == "ok"


async def test_the_socket_is_for_its_owner_alone(served: Served) -> None:
    assert served.socket.stat().st_mode & 0o777 == 0o600


async def test_an_agent_reaches_the_registry_and_no_api(served: Served) -> None:
    tls = client_context(served.pki / "h1")
    async with aiohttp.ClientSession() as session:
        for path, status in (("/registry/v1/ownership", 200), ("/api/v1/vms", 403), ("/nothing", 403)):
            async with session.get(served.url + path, ssl=tls, server_hostname="manager.kvmove") as response:
                assert response.status == status
    async with served.client("h1") as client:
        with pytest.raises(NotAllowed, match="agent h1 may not use GET /api/v1/vms"):
            await client.vms()


async def test_an_operator_does_not_reach_the_registry(served: Served) -> None:
    assert (await raw(served, "GET", "/registry/v1/ownership"))[0] == 403


async def test_without_a_certificate_and_a_token_nothing_but_joining_is_open(served: Served) -> None:
    assert await served.status("GET", "/healthz", None) == 401
    assert await served.status("GET", "/pki/v1/authority", None) == 200


async def test_a_peer_cannot_name_itself_in_a_header(served: Served) -> None:
    tls = client_context(served.pki / "h1")
    headers = {"X-Forwarded-For": "127.0.0.1", "Peer": "operator", "X-Client-Cert": "CN=root,OU=operator"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(served.url + "/api/v1/vms", ssl=tls, server_hostname="manager.kvmove", headers=headers) as answer,
    ):
        assert answer.status == 403


async def test_a_vm_is_defined_started_stopped_killed_and_deleted(served: Served) -> None:
    async with served.client() as client:
        made = await client.define_vm("h2", samples.definition("db1", DB1))
        assert (made.host, made.state) == ("h2", VmState.OFF)
        assert (await client.start_vm("db")).state is VmState.RUNNING
        assert (await client.stop_vm("db1")).state is VmState.OFF
        assert (await client.kill_vm(str(DB1))).state is VmState.OFF
        with pytest.raises(NotFound):
            await client.delete_vm("db")
        await client.delete_vm("db1")
        assert [vm.definition.name for vm in await client.vms()] == ["web1"]


async def test_a_second_vm_of_one_name_is_refused(served: Served) -> None:
    async with served.client() as client:
        with pytest.raises(Busy, match=r"there is a VM web1 .* on h1 already"):
            await client.define_vm("h2", samples.definition("web1", DB1))


async def test_a_vm_cannot_be_defined_on_a_silent_host(served: Served) -> None:
    served.h2.down = True
    async with served.client() as client:
        with pytest.raises(Unreachable, match="h2 does not answer"):
            await client.define_vm("h2", samples.definition("db1", DB1))


async def test_a_move_is_checked_started_watched_and_seen_to_its_end(served: Served) -> None:
    async with served.client() as client:
        assert (await client.check_move(REQUEST)).plan.destination.name == "h2"
        task = await client.start_move(REQUEST)
        watching = asyncio.create_task(_collect(client.watch_task(task.id)))
        for status in (samples.status(Phase.COPYING_MEMORY, 80.0), samples.completed()):
            await asyncio.sleep(0.05)
            served.h1.tell(status.model_copy(update={"move_id": task.id}))
        states = await watching
        assert states[-1].state is TaskState.SUCCEEDED
        assert [task.revision for task in states] == sorted({task.revision for task in states})
        assert [task.id for task in await client.tasks()] == [task.id]
        assert await client.task(task.id[:4]) == states[-1]
        assert await _collect(client.watch_task(task.id, states[-2].revision)) == [states[-1]]
        assert await _collect(client.watch_task(task.id, states[-1].revision)) == []
        with pytest.raises(Busy, match="has ended already"):
            await client.cancel_task(task.id)


async def test_a_move_is_cancelled_at_its_source(served: Served) -> None:
    async with served.client() as client:
        task = await client.start_move(REQUEST)
        await client.cancel_task(task.id[:6])
    assert served.h1.cancelled == [task.id]


async def test_a_started_move_is_accepted_with_the_place_of_its_task(served: Served) -> None:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(served.socket))) as session,
        session.post("http://localhost/api/v1/moves", json={"vm": "web1", "host": "h2"}) as response,
    ):
        assert response.status == 202
        assert response.headers["Location"] == f"/api/v1/tasks/{(await response.json())['id']}"


async def test_a_blocked_move_names_its_blockers(served: Served) -> None:
    served.h2.down = True
    async with served.client() as client:
        with pytest.raises(CheckFailed, match="h2 does not answer"):
            await client.start_move(REQUEST)


async def test_events_of_a_task_that_is_not_there_are_not_found(served: Served) -> None:
    status, media_type, problem = await raw(served, "GET", "/api/v1/tasks/none/events")
    assert (status, media_type, problem["code"]) == (404, "application/problem+json", "NOT_FOUND")


async def test_tasks_are_found_by_state_vm_and_host(served: Served) -> None:
    async with served.client("ann") as client:
        task = await client.start_move(REQUEST)
        assert (task.started_by, task.state) == ("ann", TaskState.RUNNING)
        for wanted in ({"states": [TaskState.RUNNING]}, {"vm": "web1"}, {"vm": str(samples.WEB1)}, {"host": "h2"}):
            assert [found.id for found in await client.tasks(**wanted)] == [task.id]
        for other in ({"states": [TaskState.QUEUED]}, {"vm": "web"}, {"host": "h3"}):
            assert await client.tasks(**other) == []
        with pytest.raises(Busy, match="and not over"):
            await client.retry_task(task.id)
        with pytest.raises(Busy, match="only while it is queued"):
            await client.change_task(task.id, TaskChange(priority=Priority.HIGH))
        served.h2.logs[task.id] = [
            LogLine(time="2026-11-23T08:00:00.000+00:00", place="h2", level="INFO", text="hello")
        ]
        assert [line.text for line in await client.task_log(task.id)] == ["hello"]


REFUSALS = [
    ("GET", "/nothing", None, 403, "may not use"),
    ("GET", "/api/v1/nothing", None, 404, "there is nothing at /api/v1/nothing"),
    ("PUT", "/api/v1/vms", None, 405, "PUT is not possible on /api/v1/vms"),
    ("POST", "/api/v1/vms/web1:explode", None, 405, "is not possible"),
    ("POST", "/api/v1/moves", {"host": "h2"}, 422, "vm: is missing"),
    ("POST", "/api/v1/moves", {"vm": "web1", "host": "h2", "fast": True}, 422, "fast: unknown key"),
    ("POST", "/api/v1/moves", {"vm": "web1", "host": "h2", "max_downtime_ms": 1}, 422, "max_downtime_ms"),
    ("GET", "/api/v1/tasks?state=done", None, 422, "state.0: Input should be 'queued', 'running'"),
    ("GET", "/api/v1/tasks?limit=0", None, 422, "limit: Input should be greater than"),
    ("PATCH", "/api/v1/tasks/none", {"colour": "red"}, 404, "there is no task 'none'"),
    ("POST", "/api/v1/moves", {"vm": "web1", "host": "h2", "at": "soon"}, 422, "at: 'soon' is no time"),
    ("GET", "/api/v1/vms/web9", None, 404, "there is no VM 'web9'"),
    ("GET", "/api/v1/hosts/..", None, 404, "there is nothing"),
    ("GET", "/api/v1/hosts/%2e%2e%2fvms", None, 404, "there is nothing"),
]


async def test_every_refusal_is_a_problem_in_plain_words(served: Served) -> None:
    for method, path, body, status, said in REFUSALS:
        got, media_type, problem = await raw(served, method, path, json=body)
        assert (path, got, media_type) == (path, status, "application/problem+json")
        assert problem["status"] == status
        assert said in problem["detail"]


async def test_a_body_that_is_no_json_is_a_problem_too(served: Served) -> None:
    headers = {"Content-Type": "application/json"}
    status, media_type, problem = await raw(served, "POST", "/api/v1/moves", data="{", headers=headers)
    assert (status, media_type, problem["code"]) == (422, "application/problem+json", "INVALID_INPUT")


async def test_a_long_request_is_refused_before_it_is_read(served: Served) -> None:
    status, _, problem = await raw(served, "POST", "/api/v1/moves", data=io.BytesIO(b"x" * 2_000_000))
    assert (status, problem["code"]) == (422, "INVALID_INPUT")
    assert "longer than" in problem["detail"]


async def test_a_fault_of_ours_gives_no_stack_trace_away(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def planted() -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(served.h1, "host", planted)
    status, media_type, problem = await raw(served, "GET", "/api/v1/hosts")
    assert (status, media_type, problem["code"]) == (500, "application/problem+json", "INTERNAL")
    assert "secret" not in json.dumps(problem)
    assert "secret detail" in caplog.text


async def test_two_that_fit_are_both_named(served: Served) -> None:
    served.h2.status_of_vms = [samples.vm("h2", definition=samples.definition("web2", DB1))]
    async with served.client() as client:
        with pytest.raises(InvalidInput, match=r"web1 .* or web2"):
            await client.vm("web")


async def test_the_interface_describes_itself(served: Served) -> None:
    status, _, schema = await raw(served, "GET", "/openapi.json")
    assert status == 200
    assert {"/api/v1/moves", "/api/v1/moves:check", "/api/v1/tasks/{task}/events"} <= set(schema["paths"])


async def _collect(states: Any) -> list[Any]:
    return [task async for task in states]


async def test_an_operators_words_go_to_the_source_with_a_name(served: Served) -> None:
    async with served.client("ann") as client:
        task = await client.start_move(REQUEST)
        await client.pause_task(task.id[:6])
        await client.resume_task(task.id)
        await client.switch_task_over(task.id)
        await client.change_task(task.id, TaskChange.model_validate({"bandwidth": "1MiB", "max_downtime_ms": 500}))
        assert served.h1.said == [(task.id, verb, "ann") for verb in ("pause", "resume", "switchover")]
        (asked,) = served.h1.orders
        assert asked == (task.id, TermsOrder(by="ann", terms=TermsChange(bandwidth=1024 * 1024, max_downtime_ms=500)))
        served.h1.tell(samples.completed().model_copy(update={"move_id": task.id}))
        await _collect(client.watch_task(task.id))
        with pytest.raises(Busy, match="does not run: it is succeeded"):
            await client.pause_task(task.id)
    async with served.client() as client:
        status, _, said = await raw(served, "PATCH", f"/api/v1/tasks/{task.id}", json={"bandwidth": "1KiB"})
        assert status == 422
        assert "at least 64.0 KiB/s" in said["detail"]


@pytest.mark.parametrize(
    "path", ["/api/v1/events?topics=disk", "/api/v1/events:past?topics=disk&since=2026-11-23T10:00:00Z"]
)
async def test_a_topic_that_there_is_not_is_an_answer_and_no_broken_stream(served: Served, path: str) -> None:
    status, _, problem = await raw(served, "GET", path)
    assert (status, problem["code"]) == (422, "INVALID_INPUT")
    assert "disk" in problem["detail"]
