"""What a move looked like from outside: from the guest's reports to the recorder and the NICs' counters.

All instants are nanoseconds of CLOCK_MONOTONIC_RAW. It believes neither agent nor QEMU: the switchover is where the
guest's own clock stood still.
"""

from collections.abc import Mapping
from typing import NamedTuple

from kvmove.lab.guest.recorder_log import RecorderLog
from kvmove.lab.guest.timeline import Gap, Window
from kvmove.lab.network import NicCounters

SECOND = 10**9
SETTLE_SECONDS = 4.0
"""How long the guest is watched before a move and after it."""

SLACK = SECOND // 2
"""A guest may run on at the destination a moment before or after the manager says that the move has ended."""


class Instants(NamedTuple):
    """When the watching began, the move was asked for, it had ended, and the watching ended."""

    watched: int
    asked: int
    ended: int
    left: int


class GuestFigures(NamedTuple):
    """Milliseconds and completed writes a second; see `results`. `copying` is from the request to the switchover."""

    guest_downtime_ms: float
    network_downtime_ms: float
    writes_before: float
    writes_copying: float
    writes_after: float
    gap_copying_ms: float
    gap_switchover_ms: float
    copying: Window


def guest_figures(log: RecorderLog, vm: int, at: Instants) -> GuestFigures:
    """The figures of one move of guest `vm`; ask half a second after `at.left` at the earliest, for late reports."""
    moving = Window(at.asked, at.ended + SLACK)
    stop = log.longest_clock_stop(vm, moving)
    switchover = Window(stop.start_ns, stop.start_ns + stop.length_ns) if stop.length_ns else Window(at.ended, at.ended)
    silence = log.longest_write_gap(vm, switchover)
    copying = Window(at.asked, silence.start_ns - 1 if silence.length_ns else switchover.start_ns)
    return GuestFigures(
        milliseconds(stop),
        milliseconds(log.longest_heartbeat_gap(vm, switchover)),
        log.write_rate(vm, Window(at.watched, at.asked)),
        log.write_rate(vm, copying),
        log.write_rate(vm, Window(max(at.ended, switchover.end_ns), at.left)),
        milliseconds(log.longest_write_gap(vm, copying)),
        milliseconds(silence),
        copying,
    )


def milliseconds(gap: Gap) -> float:
    return round(gap.length_ns / 1e6, 1)


def sent_between(before: Mapping[str, NicCounters], after: Mapping[str, NicCounters]) -> dict[str, int]:
    """Bytes that each migration NIC sent between two looks at the counters."""
    return {nic: after[nic].sent - before[nic].sent for nic in sorted(after) if nic.startswith("mig")}
