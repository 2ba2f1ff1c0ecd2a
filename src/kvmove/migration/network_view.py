"""What was probed between two hosts, put together with what they report of themselves, for people. Pure."""

from __future__ import annotations

from ipaddress import IPv4Interface

from kvmove.migration.probed import Probed
from kvmove.migration.routes import in_one_network
from kvmove.model.host import HostInfo, MigrationNic
from kvmove.model.probe import BridgeProbe, HereFacts, NetworkReport, PairProbe, PairView


def network_report(source: HostInfo, destination: HostInfo, probed: Probed) -> NetworkReport:
    """Every probed pair of NICs, those in a common network first, and every bridge that one of the hosts has."""
    network = probed.network
    pairs = [_view(source, destination, it, probed) for it in (network.pairs if network is not None else ())]
    bridges = list(network.bridges) if network is not None else []
    for name in sorted(set(source.bridges) ^ set(destination.bridges)):
        host = (source if name in source.bridges else destination).name
        bridges.append(BridgeProbe(bridge=name, connected=False, reason=f"only {host} has it"))
    return NetworkReport(
        source=source.name,
        destination=destination.name,
        pairs=tuple(sorted(pairs, key=lambda pair: not pair.network)),
        bridges=tuple(bridges),
        problems=tuple(f"{finding.what}: {finding.remedy}" for finding in probed.failed),
    )


def _view(source: HostInfo, destination: HostInfo, probe: PairProbe, probed: Probed) -> PairView:
    near = next(nic for nic in source.nics if nic.name == probe.near)
    far = next(nic for nic in destination.nics if nic.name == probe.far)
    return PairView(
        **probe.model_dump(),
        network=str(IPv4Interface(near.address).network) if in_one_network(near, far) else "",
        speed=min((speed for speed in (near.speed, far.speed) if speed), default=0),
        near_mtu=_mtu(probed.source_here, near),
        far_mtu=_mtu(probed.destination_here, far),
    )


def _mtu(here: HereFacts | None, nic: MigrationNic) -> int:
    return here.mtus.get(nic.name, 0) if here is not None else 0
