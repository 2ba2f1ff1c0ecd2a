"""How many connections QEMU's memory takes, and over which NIC pair each goes. Pure; both hosts ask the same."""

from kvmove.model.move import MovePlan, Route

LEAST_CHANNELS = 2
"""Multifd channels on one NIC: one sends while the other gathers pages."""


def memory_channels(plan: MovePlan) -> int:
    """Multifd channels of a move, the main channel not counted."""
    return max(LEAST_CHANNELS, len(plan.routes))


def route_of(plan: MovePlan, channel: int) -> Route:
    """The NIC pair of a channel: main (0) and the first multifd channel share the first pair."""
    return plan.routes[max(channel - 1, 0) % len(plan.routes)]
