"""How many connections QEMU's memory takes, and over which NIC pair each goes. Pure; both hosts ask the same."""

from kvmove.model.move import MovePlan, Route

LEAST_CHANNELS = 2
"""Multifd channels on one NIC: one sends while the other gathers pages."""


def memory_channels(plan: MovePlan) -> int:
    """Multifd channels of a move, the main channel not counted."""
    return max(LEAST_CHANNELS, len(plan.routes))


def channel_routes(plan: MovePlan) -> tuple[Route, ...]:
    """The NIC pair of each channel, main first; main and the first multifd channel share the first pair."""
    pairs = plan.routes
    return (pairs[0], *(pairs[channel % len(pairs)] for channel in range(memory_channels(plan))))
