"""Each method of the typed clients asks for the right thing and gives back what it was answered."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from kvmove.client.agent import AgentClient
from kvmove.client.manager import ManagerClient
from kvmove.errors import InvalidInput, NotFound
from kvmove.migration.findings import warning
from kvmove.model.host import HostDatastore
from kvmove.model.move import HostRef, MoveCheck, MoveRequest
from kvmove.model.probe import (
    HeardRequest,
    HeardResult,
    HereFacts,
    HereRequest,
    ListenRequest,
    NetworkReport,
    QemuFacts,
    SendRequest,
    SendResult,
)
from kvmove.model.ranking import MoveRanking, RankedHost
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.contexts import server_context
from kvmove.pki.identity import Identity, Role
from tests.support.nouns import VM, host_status, move_plan, move_status, task, vm_definition, vm_status
from tests.support.scripted_server import chunks, json_answer, scripted


def plain(value: Any) -> Any:
    """`value` as JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


HOST = host_status(1)
INFO = HOST.info
assert INFO is not None
STORE = HostDatastore(host="h1", **INFO.datastores[0].model_dump())
REQUEST = MoveRequest(vm="web", host="h2")
CHECK = MoveCheck(plan=move_plan(), findings=(warning("slow", "it is slow", "wait"),))
TICKET = "ab" * 32
ANYWHERE = MoveRequest(vm="web")
RANKING = MoveRanking(vm="web", source="h1", hosts=(RankedHost(host="h2", plan=move_plan()),), order="by name")
NETWORK = NetworkReport(source="h1", destination="h2")

ManagerCall = Callable[[ManagerClient], Awaitable[Any]]
MANAGER_CALLS: list[tuple[ManagerCall, str, str, Any, Any]] = [
    (lambda m: m.health(), "GET", "/healthz", None, {"status": "ok"}),
    (lambda m: m.hosts(), "GET", "/api/v1/hosts", None, [HOST]),
    (lambda m: m.rank_hosts(ANYWHERE), "POST", "/api/v1/moves:rank", ANYWHERE, RANKING),
    (lambda m: m.check_network("h1", "h2"), "POST", "/api/v1/hosts/h1:check-network?to=h2", None, NETWORK),
    (lambda m: m.host("h1"), "GET", "/api/v1/hosts/h1", None, HOST),
    (lambda m: m.datastores(), "GET", "/api/v1/datastores", None, [STORE]),
    (lambda m: m.vms(), "GET", "/api/v1/vms", None, [vm_status()]),
    (lambda m: m.vm("a/../b?"), "GET", "/api/v1/vms/a%2F..%2Fb%3F", None, vm_status()),
    (
        lambda m: m.define_vm("h1", vm_definition()),
        *("POST", "/api/v1/vms", {"host": "h1", "definition": vm_definition()}, vm_status()),
    ),
    (lambda m: m.start_vm("web"), "POST", "/api/v1/vms/web:start", None, vm_status()),
    (lambda m: m.stop_vm("web"), "POST", "/api/v1/vms/web:stop", None, vm_status()),
    (lambda m: m.kill_vm("web"), "POST", "/api/v1/vms/web:kill", None, vm_status()),
    (lambda m: m.check_move(REQUEST), "POST", "/api/v1/moves:check", REQUEST, CHECK),
    (lambda m: m.start_move(REQUEST), "POST", "/api/v1/moves", REQUEST, task()),
    (lambda m: m.tasks(), "GET", "/api/v1/tasks", None, [task()]),
    (lambda m: m.task("m1"), "GET", "/api/v1/tasks/m1", None, task()),
    (lambda m: m.cancel_task("m1"), "POST", "/api/v1/tasks/m1:cancel", None, task()),
]


@pytest.mark.parametrize(("call", "method", "path", "body", "answer"), MANAGER_CALLS)
async def test_the_manager_is_asked_right(
    tmp_path: Path, call: ManagerCall, method: str, path: str, body: Any, answer: Any
) -> None:
    socket = tmp_path / "s"
    async with scripted(json_answer(plain(answer)), socket=socket) as server, ManagerClient(f"unix:{socket}") as client:
        assert await call(client) == answer
    assert server.asked == [(method, path, plain(body))]


async def test_deleting_gives_nothing_and_an_error_comes_through(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    gone = json_answer(NotFound("there is no VM web").problem(), status=404)
    async with scripted(gone, socket=socket) as server, ManagerClient(f"unix:{socket}") as client:
        with pytest.raises(NotFound, match="no VM web"):
            await client.delete_vm("web")
        server.answer = json_answer(None)
        await client.delete_vm("web")
    assert server.asked[0] == ("DELETE", "/api/v1/vms/web", None)


async def test_a_task_is_watched_from_where_one_left_off(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    stream = [f"event: task\nid: {n}\ndata: {task(n).model_dump_json()}\n\n".encode() for n in (5, 6)]
    answer = chunks(stream[0], b": still here\n\nevent: other\ndata: x\n\n", stream[1])
    async with scripted(answer, socket=socket) as server, ManagerClient(f"unix:{socket}") as client:
        assert [seen async for seen in client.watch_task("m1", after=4)] == [task(5), task(6)]
        assert server.headers[0]["Last-Event-ID"] == "4"
        assert [seen async for seen in client.watch_task("m1")] == [task(5), task(6)]
        assert "Last-Event-ID" not in server.headers[1]
    assert server.asked[0] == ("GET", "/api/v1/tasks/m1/events", None)


def test_an_address_that_is_no_manager_is_refused() -> None:
    for server in ("http://h:7440", "h:7440", "unix:relative", "https://h:7440"):
        with pytest.raises(InvalidInput):
            ManagerClient(server)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    create_authority(folder / "ca")
    for name, role in (("h1", Role.AGENT), ("manager", Role.MANAGER)):
        issue(folder / "ca", Identity(role, name), folder / name)
    return folder


PLAN, STATUS = move_plan(), move_status()
HERE = HereRequest(files=("/boot/vmlinuz",))
LISTEN, HEARD = ListenRequest(token=TICKET[:32], bridges=("br0",)), HeardRequest(token=TICKET[:32])
SEND = SendRequest(token=TICKET[:32], bridges=("br0",), pairs=(), port=17450)
AgentCall = Callable[[AgentClient], Awaitable[Any]]
AGENT_CALLS: list[tuple[AgentCall, str, str, Any, Any]] = [
    (lambda a: a.host(), "GET", "/v1/host", None, INFO),
    (lambda a: a.probe_qemu(), "POST", "/v1/probe/qemu", {}, QemuFacts(machines=("q35",), cpus=())),
    (lambda a: a.probe_here(HERE), "POST", "/v1/probe/here", HERE, HereFacts(clock=1.5)),
    (lambda a: a.probe_listen(LISTEN), "POST", "/v1/probe/listen", LISTEN, None),
    (lambda a: a.probe_send(SEND), "POST", "/v1/probe/send", SEND, SendResult()),
    (lambda a: a.probe_heard(HEARD), "POST", "/v1/probe/heard", HEARD, HeardResult(heard=("br0",))),
    (lambda a: a.vms(), "GET", "/v1/vms", None, [vm_status()]),
    (lambda a: a.define(vm_definition()), "POST", "/v1/vms", vm_definition(), vm_status()),
    (lambda a: a.delete(VM), "DELETE", f"/v1/vms/{VM}", None, None),
    (lambda a: a.start(VM), "POST", f"/v1/vms/{VM}/start", None, vm_status()),
    (lambda a: a.stop(VM), "POST", f"/v1/vms/{VM}/stop", None, vm_status()),
    (lambda a: a.kill(VM), "POST", f"/v1/vms/{VM}/kill", None, vm_status()),
    (lambda a: a.expect_incoming(PLAN, TICKET), "POST", "/v1/incoming", {"plan": PLAN, "ticket": TICKET}, None),
    (lambda a: a.start_move(PLAN, TICKET), "POST", "/v1/moves", {"plan": PLAN, "ticket": TICKET}, STATUS),
    (lambda a: a.moves(), "GET", "/v1/moves", None, [STATUS]),
    (lambda a: a.move("m1"), "GET", "/v1/moves/m1", None, STATUS),
    (lambda a: a.cancel("m1"), "POST", "/v1/moves/m1/cancel", None, STATUS),
    (lambda a: a.incoming("m1"), "GET", "/v1/incoming/m1", None, {"state": "ready"}),
    (lambda a: a.prepare_incoming("m1", {"a": PLAN}), "POST", "/v1/incoming/m1/prepare", {"a": PLAN}, {}),
    (lambda a: a.sync_incoming("m1", {}), "POST", "/v1/incoming/m1/sync", {}, {"digest": "x"}),
    (lambda a: a.take_over_incoming("m1", {"t": 1}), "POST", "/v1/incoming/m1/take-over", {"t": 1}, {}),
    (lambda a: a.abandon_incoming("m1", {}), "POST", "/v1/incoming/m1/abandon", {}, {}),
]


@pytest.mark.parametrize(("call", "method", "path", "body", "answer"), AGENT_CALLS)
async def test_an_agent_is_asked_right(
    certificates: Path, call: AgentCall, method: str, path: str, body: Any, answer: Any
) -> None:
    async with scripted(json_answer(plain(answer)), tls=server_context(certificates / "h1")) as server:
        host = HostRef(name="h1", control=f"127.0.0.1:{server.port}")
        async with AgentClient(host, certificates / "manager") as client:
            assert await call(client) == answer
    assert server.asked == [(method, path, plain(body))]


async def test_a_move_is_followed_line_by_line(certificates: Path) -> None:
    line = STATUS.model_dump_json().encode() + b"\n"
    async with scripted(chunks(line[:50], line[50:] + line), tls=server_context(certificates / "h1")) as server:
        host = HostRef(name="h1", control=f"127.0.0.1:{server.port}")
        async with AgentClient(host, certificates / "manager") as client:
            assert [seen async for seen in client.events("m1")] == [STATUS, STATUS]
    assert server.asked == [("GET", "/v1/moves/m1/events", None)]
