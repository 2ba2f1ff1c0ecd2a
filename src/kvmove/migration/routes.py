"""Which migration NICs of two hosts reach each other. Pure.

A pair is a route when both addresses lie in the same IPv4 network. Nothing is sent to find out: the streams show soon
enough whether the wire is there, and a route that fails is one route less.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Interface

from kvmove.model.host import HostInfo, MigrationNic
from kvmove.model.move import Route
from kvmove.units import format_rate


def routes(source: HostInfo, destination: HostInfo, nics: Collection[str] = ()) -> tuple[Route, ...]:
    """Every pair of NICs in a common network, in the order of the source's NICs; `nics` limits those (none: all).

    A route is as fast as the slower of its ends; 0 when neither speed is known.
    """
    return tuple(
        _route(own, theirs, destination.data_port)
        for own in source.nics
        for theirs in destination.nics
        if (not nics or own.name in nics) and _in_one_network(own, theirs)
    )


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
        source_address=str(IPv4Interface(own.address).ip),
        destination_address=str(IPv4Interface(theirs.address).ip),
        port=port,
        speed=min(speeds, default=0),
    )


def _in_one_network(own: MigrationNic, theirs: MigrationNic) -> bool:
    try:
        one, other = IPv4Interface(own.address), IPv4Interface(theirs.address)
    except ValueError:
        return False
    return one.network == other.network and one.ip != other.ip
