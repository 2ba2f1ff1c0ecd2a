"""The networks of a lab: switches in the world namespace, and each host plugged into them by veth pairs.

    management   mgmt0 of every host and the world itself: agents' control, manager
    migration k  mig<k> of every host: a subnet of its own per k, each NIC shaped in both directions
    guests       br0 of every host, its uplink, and the world itself: a guest keeps its address when it moves

In a lab with a round trip the delay line (delay_line) takes the part of the first two switches: ports that belong to
no bridge, and a pair of devices for the world's own end.

Invariant: nothing is ever created in the machine's own network namespace; every device lives in a namespace that
ends with its host. A host may be unplugged by ending it, and plugged in again, while the others run on.
"""

import json
from dataclasses import dataclass
from typing import Any

from kvmove.lab import addresses
from kvmove.lab.commands import LabFailed, in_network, run

GUEST_SWITCH = "guests"
MANAGEMENT_SWITCH = "mgmt"
UPLINK = "uplink0"
_WORLD_PORT = "pw-mgmt"
"""The world's own end at the delay line."""

BURST = "256kb"
"""tbf's bucket: large enough for one 64 KiB segment at any rate."""


@dataclass(frozen=True)
class NicCounters:
    """What a NIC has carried since it was made, in bytes and packets, as its host sees it."""

    sent: int
    received: int
    sent_packets: int
    received_packets: int


def build_world(world: int, nics: int, *, delayed: bool = False) -> None:
    """Make the switches in the network of process `world`, and give the world its two addresses.

    With `delayed` only those that the delay line does not take the part of.

    :raise LabFailed: a command failed; the devices made so far end with the namespace.
    """
    lines = []
    bridges = [GUEST_SWITCH]
    if delayed:
        lines += [f"link add {MANAGEMENT_SWITCH} type veth peer name {_WORLD_PORT}"]
        lines += [f"link set {MANAGEMENT_SWITCH} up", f"link set {_WORLD_PORT} arp off up"]
    else:
        bridges += [MANAGEMENT_SWITCH, *(_migration_switch(nic) for nic in range(nics))]
    for switch in bridges:
        lines += [f"link add {switch} type bridge forward_delay 0", f"link set {switch} up"]
    lines.append(f"address add {addresses.world_management()}/{addresses.PREFIX} dev {MANAGEMENT_SWITCH}")
    lines.append(f"address add {addresses.world_guests()}/{addresses.PREFIX} dev {GUEST_SWITCH}")
    _ip(world, lines)


def delayed_switches(hosts: int, nics: int) -> list[list[str]]:
    """The ports of each switch that the delay line takes the part of, in a lab of so many hosts."""
    migration = [[_port(index, addresses.migration(nic, index).name) for index in range(hosts)] for nic in range(nics)]
    return [[_WORLD_PORT, *(_port(index, addresses.MANAGEMENT_NIC) for index in range(hosts))], *migration]


def plug_in(world: int, host: int, index: int, rates: tuple[int, ...], *, delayed: bool = False) -> None:
    """Connect the host number `index`, whose init is `host`, to every switch. Rates in bytes/s, 0 is unshaped.

    :raise LabFailed: a command failed; the devices made so far end with the host.
    """
    nics = [(MANAGEMENT_SWITCH, addresses.management(index))]
    nics += [(_migration_switch(nic), addresses.migration(nic, index)) for nic in range(len(rates))]
    pairs = [(nic.name, switch) for switch, nic in nics] + [(UPLINK, GUEST_SWITCH)]
    unplug(world, _old_ports(world, index))
    outside = []
    for number, (name, switch) in enumerate(pairs):
        port, mac = _port(index, name), addresses.host_mac(index, number)
        outside.append(f"link add {port} type veth peer name {name} address {mac} netns {host}")
        # Without `arp off` the world itself would answer for its address at a port that no bridge has: undelayed.
        outside.append(f"link set {port} " + ("arp off up" if delayed and name != UPLINK else f"master {switch} up"))
    _ip(world, outside)
    inside = [f"link add {addresses.GUEST_BRIDGE} type bridge forward_delay 0"]
    inside += [f"link set {UPLINK} master {addresses.GUEST_BRIDGE} up", f"link set {addresses.GUEST_BRIDGE} up"]
    for _, nic in nics:
        inside += [f"address add {nic.address}/{addresses.PREFIX} dev {nic.name}", f"link set {nic.name} up"]
    _ip(host, inside)
    for number, rate in enumerate(rates):
        name = addresses.migration(number, index).name
        shape(host, name, rate)
        shape(world, _port(index, name), rate)


def unplug(world: int, ports: list[str]) -> None:
    """Take these ports away. The kernel may do so at the same moment: it takes a dead host's network apart by itself.

    :raise LabFailed: a port is still there, with what `ip` said of it.
    """
    for port in ports:
        try:
            _ip(world, [f"link delete {port}"])
        except LabFailed:
            if port in devices(world):
                raise


def shape(pid: int, device: str, rate: int) -> None:
    """Limit what `device` in the network of `pid` sends to `rate` bytes/s; 0 takes the limit away.

    :raise LabFailed: there is no such device, or the kernel has no tbf.
    """
    if rate:
        words = ["qdisc", "replace", "dev", device, "root", "tbf", "rate", f"{rate}bps", "burst", BURST]
        run(in_network(pid, ["tc", *words, "latency", "50ms"]))
    elif "tbf" in run(in_network(pid, ["tc", "qdisc", "show", "dev", device])):
        run(in_network(pid, ["tc", "qdisc", "delete", "dev", device, "root"]))


def reshape(world: int, host: int, index: int, nic: str, rate: int) -> None:
    """Change the rate of a host's NIC in both directions, while it carries traffic. Bytes/s, 0 is unshaped."""
    shape(host, nic, rate)
    shape(world, _port(index, nic), rate)


def set_link(host: int, nic: str, *, up: bool) -> None:
    """Take a NIC of a host down, or up again; it keeps its address.

    :raise LabFailed: the host has no such NIC.
    """
    _ip(host, [f"link set {nic} {'up' if up else 'down'}"])


def counters(host: int) -> dict[str, NicCounters]:
    """What every network device of the host has carried.

    :raise LabFailed: the host is gone.
    """
    return {link["ifname"]: _counters(link["stats64"]) for link in _links(host)}


def devices(pid: int) -> list[str]:
    """The network devices in the network of `pid`."""
    return [link["ifname"] for link in _links(pid)]


def cut_connections(host: int, port: int) -> int:
    """Break every TCP connection of the host to or from `port` at once, as a failing peer would; returns how many.

    Uses sock_diag's destroy (`ss --kill`, CONFIG_INET_DIAG_DESTROY).
    """
    rule = ["(", "dport", "=", str(port), "or", "sport", "=", str(port), ")"]
    output = run(in_network(host, ["ss", "--tcp", "--no-header", "--kill", "state", "connected", *rule]))
    return len(output.splitlines())


def _counters(stats: dict[str, Any]) -> NicCounters:
    sent, received = stats["tx"], stats["rx"]
    return NicCounters(sent["bytes"], received["bytes"], sent["packets"], received["packets"])


def _links(pid: int) -> list[dict[str, Any]]:
    links = json.loads(run(in_network(pid, ["ip", "-j", "-s", "link"])))
    if not isinstance(links, list):
        raise LabFailed("`ip -j link` did not print a list")
    return links


def _migration_switch(nic: int) -> str:
    return f"mig{nic}"


def _port(index: int, nic: str) -> str:
    return f"p{index}-{nic}"


def _old_ports(world: int, index: int) -> list[str]:
    """Ports of a former life of the host: the kernel takes a dead network apart at its leisure."""
    return [device for device in devices(world) if device.startswith(_port(index, ""))]


def _ip(pid: int, lines: list[str]) -> None:
    run(in_network(pid, ["ip", "-batch", "-"]), "\n".join(lines) + "\n")
