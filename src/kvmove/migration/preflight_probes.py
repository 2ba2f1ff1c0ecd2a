"""What probes of the two hosts and the networks between them say against a move. Pure.

A probe that could not run is a warning that says so, never silence: `Probed.failed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from kvmove.migration.findings import blocker, warning
from kvmove.migration.preflight_disks import Pair, needs_nics
from kvmove.migration.probed import left
from kvmove.migration.routes import routes
from kvmove.model.finding import Finding
from kvmove.model.probe import PairProbe

CLOCKS_APART = 1.0
CERTIFICATE_LEFT = timedelta(days=7)


def _what_failed(pair: Pair) -> Iterator[Finding]:
    yield from pair.probed.failed


def _bridges_meet(pair: Pair) -> Iterator[Finding]:
    """Of the VM's bridges, those that both hosts have (that one is missing is said already)."""
    network = pair.probed.network
    wanted = {nic.bridge for nic in pair.vm.definition.nics}
    name, source, destination = pair.vm.definition.name, pair.source.name, pair.destination.name
    for probe in network.bridges if network is not None else ():
        if probe.bridge not in wanted:
            continue
        if probe.connected is None:
            yield warning(
                "probe-failed",
                f"whether bridge {probe.bridge} is one network on {source} and {destination} was not found out: "
                f"{probe.reason}",
                f"see that it is: {name} keeps its addresses, and others must find it there",
            )
        elif not probe.connected:
            yield blocker(
                "bridge-apart",
                f"bridge {probe.bridge} on {destination} is not in the same network as on {source}: "
                f"{probe.reason or 'frames sent there did not arrive'}, and {name} would lose its connections",
                f"connect bridge {probe.bridge} on {destination} to the network of the one on {source} (uplink, VLAN); "
                "where a switch drops what it does not know, let ethertype 0x88b5 pass; if you know that the VM is "
                "reached there, --accept bridge-apart",
            )


def _boot_files_are_there(pair: Pair) -> Iterator[Finding]:
    here = pair.probed.destination_here
    for file in here.missing_files if here is not None else ():
        yield blocker(
            "boot-file-missing",
            f"{pair.vm.definition.name} boots from {file}, which {pair.destination.name} does not have",
            f"copy {file} from {pair.source.name} to the same place on {pair.destination.name}",
        )


def _clocks_agree(pair: Pair) -> Iterator[Finding]:
    clocks = pair.probed.clocks
    if clocks is not None and abs(clocks.ahead) - clocks.uncertain > CLOCKS_APART:
        yield warning(
            "clocks-differ",
            f"the clock of {pair.destination.name} is {abs(clocks.ahead):.1f} s "
            f"{'ahead of' if clocks.ahead > 0 else 'behind'} that of {pair.source.name}: the guest's time may jump, "
            "and certificates are taken for expired, or for not yet valid, by a clock that is wrong",
            "let both hosts take their time from the network: chrony or systemd-timesyncd",
        )


def _certificates_last(pair: Pair) -> Iterator[Finding]:
    now = pair.probed.now
    if now is None:
        return
    for host, here in ((pair.source, pair.probed.source_here), (pair.destination, pair.probed.destination_here)):
        for certificate in here.certificates if here is not None else ():
            if datetime.fromisoformat(certificate.expires) - now < CERTIFICATE_LEFT:
                time = left(certificate, now)
                yield warning(
                    "certificate-expiring",
                    f"the certificate {certificate.path} on {host.name} "
                    f"{f'expires in {time}' if time else 'has expired'}; after that no move comes or goes",
                    "issue a new one (kvmove pki issue), put it there, and restart kvmove-agent; VMs run on",
                )


def _nics_are_reached(pair: Pair) -> Iterator[Finding]:
    """Of the pairs that the move would use. That there are none is said already."""
    probed = _used(pair)
    silent = [it for it in probed if not it.reachable]
    said = "; ".join(f"{_ends(pair, it)}: {it.reason}" for it in silent)
    remedy = f"look at cables, switches and firewalls between them; port {pair.destination.data_port}/tcp must be open"
    if silent and len(silent) == len(probed) and needs_nics(pair):
        yield blocker("data-port-unreachable", f"no pair of migration NICs reaches the other end: {said}", remedy)
    elif silent and needs_nics(pair):
        yield warning("nic-pair-unreachable", f"the move would go on without some NICs: {said}", remedy)


def _packets_fit(pair: Pair) -> Iterator[Finding]:
    near, far = pair.probed.source_here, pair.probed.destination_here
    for probe in _used(pair):
        if probe.whole is False:
            yield warning(
                "mtu-too-large",
                f"packets of {probe.mtu} bytes, which both NICs allow, are lost between {_ends(pair, probe)}: a stream "
                "there may stand still",
                "give the switches between them the same MTU, or both NICs a smaller one: ip link set dev NIC mtu 1500",
            )
        one, other = (here.mtus.get(nic) for here, nic in ((near, probe.near), (far, probe.far)) if here is not None)
        if one and other and one != other:
            yield warning(
                "mtu-differs",
                f"the MTUs differ: {probe.near} of {pair.source.name} {one}, {probe.far} of {pair.destination.name} "
                f"{other}",
                "give both the same: ip link set dev NIC mtu SIZE, and in the host's network configuration",
            )


PROBE_CHECKS: tuple[Callable[[Pair], Iterator[Finding]], ...] = (
    _what_failed,
    _bridges_meet,
    _boot_files_are_there,
    _clocks_agree,
    _certificates_last,
    _nics_are_reached,
    _packets_fit,
)


def _used(pair: Pair) -> list[PairProbe]:
    """The probes of the NIC pairs that the move would use."""
    network = pair.probed.network
    if network is None:
        return []
    found = routes(pair.source, pair.destination, pair.request.nics, pair.probed.reached())
    ends = {(route.source_address, route.destination_address) for route in found}
    return [it for it in network.pairs if (it.source_address, it.destination_address) in ends]


def _ends(pair: Pair, probe: PairProbe) -> str:
    return f"{probe.near} of {pair.source.name} and {probe.far} of {pair.destination.name}"
