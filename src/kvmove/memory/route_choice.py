"""Over which routes a channel that has lost its connection is tried again, in order. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kvmove.model.move import Route


def routes_to_try(
    routes: Iterable[Route], current: Route, load: Mapping[str, int], *, is_lively: bool
) -> tuple[Route, ...]:
    """Each route once. The current one first if it was heard of just before (a connection that was cut says nothing
    against the wire), else last; in between those that share neither end with it, and with fewest channels (`load`, by
    NIC)."""
    others = sorted(
        {route for route in routes if route != current},
        key=lambda route: (_shares_an_end(route, current), load.get(route.nic, 0), route.source_address, route.port),
    )
    return (current, *others) if is_lively else (*others, current)


def _shares_an_end(one: Route, other: Route) -> bool:
    return one.nic == other.nic or one.destination_address == other.destination_address
