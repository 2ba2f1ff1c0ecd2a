"""Which migration NICs of two hosts reach each other. Pure.

A pair is a route when both addresses lie in the same IPv4 network. Whether the wire is there the streams show soon
enough, and a route that fails is one route less. Where no two NICs share a network (there is a router between them),
those pairs are routes that a probe has found to reach each other.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Interface

from kvmove.model.host import HostInfo, MigrationNic
from kvmove.model.move import Route
from kvmove.units import format_rate


def routes(
    source: HostInfo,
    destination: HostInfo,
    nics: Collection[str] = (),
    reached: Collection[tuple[str, str]] = (),
) -> tuple[Route, ...]:
    """Every pair of NICs in a common network, in the order of the source's NICs; `nics` limits those (none: all).
    Where there is none, every pair whose addresses, without prefix, are in `reached`.

    A route is as fast as the slower of its ends; 0 when neither speed is known.
    """
    pairs = [(own, theirs) for own in source.nics for theirs in destination.nics if not nics or own.name in nics]
    meeting = [pair for pair in pairs if in_one_network(*pair)]
    meeting = meeting or [(own, theirs) for own, theirs in pairs if (_plain(own), _plain(theirs)) in reached]
    return tuple(_route(own, theirs, destination.data_port) for own, theirs in meeting)


def describe_nics(host: HostInfo) -> str:
    """A host's migration NICs for people: `mig0 10.10.0.1/24 (119.2 MiB/s)`."""
    if not host.nics:
        return f"{host.name} has none"
    shown = (f"{nic.name} {nic.address}{f' ({format_rate(nic.speed)})' if nic.speed else ''}" for nic in host.nics)
    return f"{host.name} has {', '.join(shown)}"


def _route(own: MigrationNic, theirs: MigrationNic, port: int) -> Route:
    speeds = [speed for speed in (own.speed, theirs.speed) if speed]
    return Route(
        nic=own.name,
        source_address=_plain(own),
        destination_address=_plain(theirs),
        port=port,
        speed=min(speeds, default=0),
    )


def _plain(nic: MigrationNic) -> str:
    return nic.address.partition("/")[0]


def in_one_network(own: MigrationNic, theirs: MigrationNic) -> bool:
    """Whether the two lie in the same IPv4 network."""
    try:
        one, other = IPv4Interface(own.address), IPv4Interface(theirs.address)
    except ValueError:
        return False
    return one.network == other.network and one.ip != other.ip
