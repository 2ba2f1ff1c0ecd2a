"""The manager's figures for Prometheus: the cluster as it is seen from here, moves that ended, the manager itself.

Invariant: labels are hosts, VMs, datastores and words of a fixed set; nothing that grows with time (no ids of tasks).
What ended is counted since this manager's start, once each; all else is read at the moment of the question.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

import kvmove
from kvmove.errors import KvmoveError
from kvmove.manager.inventory import Inventory
from kvmove.manager.task_book import TaskBook
from kvmove.model.host import HostStatus
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import Power
from kvmove.pki.validity import first_end

QUEUED = "queued"
_DOWNTIME = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_PHASE = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 4 * 3600.0)
_RPC = (0.005, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class ManagerMetrics:
    """All figures of one manager. `pki` is its own folder."""

    def __init__(self, inventory: Inventory, book: TaskBook, pki: Path) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        ProcessCollector(registry=registry)
        registry.register(_Cluster(inventory, book, pki))
        labels = ["kind", "result", "reason"]
        self._moves = Counter("kvmove_migrations", "Moves that ended", labels, registry=registry)
        self._bytes = Counter("kvmove_migration_bytes", "Sent by moves that succeeded", ["stream"], registry=registry)
        self._phase = Histogram(
            "kvmove_migration_phase_seconds", "Time in a phase", ["phase"], buckets=_PHASE, registry=registry
        )
        self._downtime = Histogram(
            "kvmove_migration_downtime_seconds", "Guest stood still", ["kind"], buckets=_DOWNTIME, registry=registry
        )
        self._rpc = Histogram(
            "kvmove_agent_rpc_seconds", "An agent's answer to what it has", buckets=_RPC, registry=registry
        )

    def heard(self, task: Task) -> None:
        """A task changed; called once with its end."""
        if not task.ended_state or task.plan is None:
            return
        reason = str(task.problem.get("code", "")).lower() if task.problem else ""
        self._moves.labels(task.plan.kind, task.state, reason).inc()
        if task.report is None:
            return
        self._bytes.labels("disk").inc(sum(disk.data_sent for disk in task.report.disks))
        self._bytes.labels("memory").inc(task.report.memory_bytes)
        for phase in task.report.phases:
            self._phase.labels(phase.phase).observe(phase.seconds)
        if task.state is TaskState.SUCCEEDED and task.plan.power is Power.RUNNING:
            self._downtime.labels(task.plan.kind).observe(task.report.downtime_ms / 1000)

    def answered(self, seconds: float) -> None:
        """An agent answered after so long."""
        self._rpc.observe(seconds)

    def render(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Cluster(Collector):
    """What is read when it is asked for."""

    def __init__(self, inventory: Inventory, book: TaskBook, pki: Path) -> None:
        self._inventory = inventory
        self._book = book
        self._pki = pki

    def collect(self) -> Iterator[Metric]:
        hosts = self._inventory.hosts()
        yield InfoMetricFamily("kvmove_build", "What runs", {"version": kvmove.__version__, "component": "manager"})
        yield from _hosts(hosts)
        yield from _tasks(hosts, self._book.running())
        vms = _family("kvmove_vm_info", "A VM, where it is and how", "vm", "host", "state")
        for vm in self._inventory.vms():
            vms.add_metric([vm.definition.name, vm.host, vm.state], 1)
        yield vms
        ends = _family("kvmove_certificate_expiry_timestamp_seconds", "When this party's certificate ends")
        try:
            ends.add_metric([], first_end(self._pki).timestamp())
        except KvmoveError:
            return  # gone or broken: no figure is better than a wrong one
        yield ends


def _hosts(hosts: Iterable[HostStatus]) -> Iterator[Metric]:
    up = _family("kvmove_host_up", "Whether the host's agent answers", "host")
    total = _family("kvmove_host_memory_bytes", "The host's memory", "host")
    free = _family("kvmove_host_memory_available_bytes", "Of it, what new VMs can have", "host")
    size = _family("kvmove_datastore_size_bytes", "A datastore's size", "host", "datastore")
    room = _family("kvmove_datastore_free_bytes", "Of it, what is free", "host", "datastore")
    for host in hosts:
        up.add_metric([host.name], host.reachable)
        if host.info is None or not host.reachable:
            continue
        total.add_metric([host.name], host.info.memory_total)
        free.add_metric([host.name], host.info.memory_free)
        for store in host.info.datastores:
            size.add_metric([host.name, store.name], store.size)
            room.add_metric([host.name, store.name], store.free)
    yield from (up, total, free, size, room)


def _tasks(hosts: Iterable[HostStatus], tasks: Iterable[Task]) -> Iterator[Metric]:
    running = [task for task in tasks if task.state != QUEUED]
    count = _family("kvmove_migrations_running", "Moves under way", "host", "direction")
    for host in hosts:
        count.add_metric([host.name, "out"], sum(task.source == host.name for task in running))
        count.add_metric([host.name, "in"], sum(task.destination == host.name for task in running))
    yield count
    yield _family("kvmove_queue_length", "Tasks that wait", value=sum(task.state == QUEUED for task in tasks))
    done = _family("kvmove_migration_transferred_bytes", "A move under way: what it has sent", "vm")
    left = _family("kvmove_migration_remaining_bytes", "What it has still to send, as known now", "vm")
    dirty = _family("kvmove_migration_dirty_bytes_per_second", "How fast the guest writes its memory", "vm")
    for task in running:
        if task.progress is not None:
            done.add_metric([task.vm], task.progress.bytes_done)
            left.add_metric([task.vm], max(task.progress.bytes_total - task.progress.bytes_done, 0))
            dirty.add_metric([task.vm], task.progress.memory.dirty_rate)
    yield from (done, left, dirty)


def _family(name: str, text: str, *labels: str, value: float | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value, labels=None if value is not None else labels)
