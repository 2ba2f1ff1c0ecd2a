"""The figures: what they are called, that each end is counted once, and who may read them."""

import re

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from kvmove.errors import NotAllowed, Unreachable
from kvmove.model.move import MoveRequest, Phase
from kvmove.model.task import TaskState
from kvmove.pki.contexts import client_context
from tests.support import samples
from tests.unit.manager.conftest import Served

Figures = dict[tuple[str, tuple[str, ...]], float]
HIGH = {"task", "task_id", "id", "move", "uuid"}


async def figures(served: Served, path: str = "/metrics") -> Figures:
    """Each sample by its name and the values of its labels, sorted by the labels' names."""
    async with served.client("ann") as client:
        kind, text = await client.raw("GET", path)
    assert kind == "text/plain"
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_cluster_is_told_in_figures(served: Served) -> None:
    async with served.client() as client:
        await client.vms()
        served.h2.down = True
        await client.vms()
    found = await figures(served)
    assert found["kvmove_host_up", ("h1",)] == 1
    assert found["kvmove_host_up", ("h2",)] == 0
    assert found["kvmove_vm_info", ("h1", "running", "web1")] == 1
    assert found["kvmove_datastore_free_bytes", ("local", "h1")] == samples.host_info().datastores[0].free
    assert ("kvmove_datastore_free_bytes", ("local", "h2")) not in found
    assert found["kvmove_queue_length", ()] == 0
    assert found["kvmove_agent_rpc_seconds_count", ()] >= 3
    assert found["kvmove_certificate_expiry_timestamp_seconds", ()] > 1e9
    assert found["kvmove_build_info", ("manager", "0.1.0")] == 1


async def test_a_move_is_seen_while_it_runs_and_counted_once_when_it_has_ended(served: Served) -> None:
    async with served.client() as client:
        task = await client.start_move(MoveRequest(vm="web1", host="h2"))
        served.h1.tell(samples.status(Phase.COPYING_MEMORY, 40.0).model_copy(update={"move_id": task.id}))
        watching = client.watch_task(task.id)
        async for state in watching:
            if state.progress is not None:
                break
        running = await figures(served)
        served.h1.tell(samples.completed().model_copy(update={"move_id": task.id}))
        async for state in client.watch_task(task.id):
            ended = state
    report = samples.report()
    assert ended.state is TaskState.SUCCEEDED
    assert running["kvmove_migrations_running", ("out", "h1")] == 1
    assert running["kvmove_migrations_running", ("in", "h2")] == 1
    assert running["kvmove_migration_remaining_bytes", ("web1",)] > 0
    await served.book.change(task.id, vm_state="changed no more")
    found = await figures(served)
    assert found["kvmove_migrations_total", ("unified", "", "succeeded")] == 1
    assert found["kvmove_migration_downtime_seconds_sum", ("unified",)] == report.downtime_ms / 1000
    assert found["kvmove_migration_phase_seconds_count", ("copying-disks",)] == 1
    assert found["kvmove_migration_bytes_total", ("memory",)] == report.memory_bytes
    assert found["kvmove_migrations_running", ("out", "h1")] == 0
    assert not [name for name, labels in found if "web1" in labels and name.startswith("kvmove_migration")]


async def test_a_failed_move_is_counted_with_its_reason_and_without_a_downtime(served: Served) -> None:
    problem = Unreachable("planted").problem()
    task = samples.task().model_copy(update={"id": "f1"})
    await served.book.add(task)
    await served.book.change("f1", state=TaskState.FAILED, problem=problem)
    found = await figures(served)
    assert found["kvmove_migrations_total", ("unified", "unreachable", "failed")] == 1
    assert not [name for name, labels in found if name.startswith("kvmove_migration_downtime") and labels]


async def test_no_label_grows_with_time(served: Served) -> None:
    async with served.client("ann") as client:
        _, text = await client.raw("GET", "/metrics")
    assert set(re.findall(r"[{,](\w+)=", text)).isdisjoint(HIGH)


async def test_an_agents_figures_and_log_come_through_the_manager(served: Served) -> None:
    assert (await figures(served, "/api/v1/hosts/h1/metrics"))["kvmove_agent_vms", ()] == 1
    async with served.client("ann") as client:
        assert await client.log("h1") == [{"event": "a line"}]


async def test_figures_are_for_operators(served: Served) -> None:
    tls = client_context(served.pki / "h1")
    async with aiohttp.ClientSession() as session:
        for path in ("/metrics", "/api/v1/log", "/api/v1/events"):
            async with session.get(served.url + path, ssl=tls, server_hostname="manager.kvmove") as answer:
                assert answer.status == NotAllowed.status


async def test_the_manager_says_whether_its_registry_answers(served: Served) -> None:
    async with served.client() as client:
        assert (await client.ready())["status"] == "ok"
        assert "time" in await client.health()
