"""An agent's own figures for Prometheus: what only it knows. What the manager knows too is in the manager's figures.

The manager alone may ask for them and passes them on (`/api/v1/hosts/NAME/metrics`), so a scraper needs one address
and one certificate, and no way to the hosts.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

import kvmove
from kvmove.errors import KvmoveError
from kvmove.model.host import HostInfo
from kvmove.model.move import MoveStatus
from kvmove.model.vm import VmState, VmStatus
from kvmove.pki.validity import first_end


class AgentMetrics:
    """The figures of the agent of host `name`; `pki` is its own folder."""

    def __init__(self, name: str, pki: Path) -> None:
        self._name = name
        self._pki = pki

    def render(self, host: HostInfo, vms: Sequence[VmStatus], moves: Sequence[MoveStatus]) -> str:
        """Everything, in Prometheus' text format."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Told(list(self._families(host, vms, moves))))
        return generate_latest(registry).decode()

    def _families(self, host: HostInfo, vms: Sequence[VmStatus], moves: Sequence[MoveStatus]) -> Iterator[Metric]:
        build = {"version": kvmove.__version__, "component": "agent", "qemu": host.qemu_version}
        yield InfoMetricFamily("kvmove_build", "What runs", {**build, "accelerator": host.accelerator})
        states = Counter(vm.state for vm in vms)
        by_state = GaugeMetricFamily("kvmove_agent_vms", "VMs of this host", labels=["state"])
        for state in VmState:
            by_state.add_metric([state], states[state])
        yield by_state
        yield from _moves([move for move in moves if move.outcome is None])
        nics = GaugeMetricFamily("kvmove_agent_nic_speed_bytes_per_second", "Migration NICs", labels=["nic"])
        for nic in host.nics:
            nics.add_metric([nic.name], nic.speed)
        yield nics
        try:
            end = first_end(self._pki).timestamp()
        except KvmoveError:
            return  # gone or broken: no figure is better than a wrong one
        yield GaugeMetricFamily(
            "kvmove_certificate_expiry_timestamp_seconds", "When this party's certificate ends", value=end
        )


def _moves(moves: Sequence[MoveStatus]) -> Iterator[Metric]:
    """Moves out of this host, under way: how they press on the guest."""
    yield GaugeMetricFamily("kvmove_agent_moves_running", "Moves out of this host", value=len(moves))
    kept = GaugeMetricFamily("kvmove_agent_buffered_bytes", "Guest writes that wait for the wire", labels=["vm"])
    held = GaugeMetricFamily("kvmove_agent_throttle_ratio", "Share of time that vCPUs are held back", labels=["vm"])
    for move in moves:
        kept.add_metric([move.plan.vm.name], sum(disk.buffered for disk in move.progress.disks))
        held.add_metric([move.plan.vm.name], move.progress.memory.throttle / 100)
    yield from (kept, held)


class _Told(Collector):
    """Families that are there already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families
