"""How many connections QEMU's memory takes, and over which NIC pair each goes. Pure; both hosts ask the same.

One: the main channel alone. QEMU 7.2 hangs for good in `multifd_send_sync_main` (migration/multifd.c) when multifd
channels break together, as they do when an agent or the destination's QEMU dies: a channel's thread that sees the
others' end first leaves without posting its `sem_sync`, for which the migration's thread waits. The guest runs on, and
can never be moved again until it is started anew.
"""

from kvmove.model.move import MovePlan, Route

MULTIFD_CHANNELS = 0


def memory_channels(plan: MovePlan) -> int:
    """Multifd channels of a move, the main channel not counted."""
    del plan
    return MULTIFD_CHANNELS


def route_of(plan: MovePlan, channel: int) -> Route:
    """The NIC pair of a channel: main (0) and the first multifd channel share the first pair."""
    return plan.routes[max(channel - 1, 0) % len(plan.routes)]
