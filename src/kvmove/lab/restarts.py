"""When a service of a lab's host is started again after it ended, as systemd's `Restart=on-failure` would. Pure.

Invariant: a service that keeps failing is tried ever more seldom, up to a ceiling; one that ran well for a while
starts again from the shortest delay. A clean end (exit 0, or a polite signal) is not followed by a restart.
"""

import signal
from dataclasses import dataclass

CLEAN_SIGNALS = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE})
"""The signals that systemd, too, counts as a clean end (systemd.service(5), Restart=)."""


@dataclass(frozen=True)
class RestartPolicy:
    """Times in seconds. A run of `healthy_after` or longer forgets the failures before it."""

    first: float = 0.2
    factor: float = 2.0
    ceiling: float = 5.0
    healthy_after: float = 10.0


def ended_cleanly(returncode: int) -> bool:
    """Whether a process's return code (negative: the signal that ended it) counts as a wish to end."""
    return returncode == 0 or -returncode in CLEAN_SIGNALS


def next_delay(policy: RestartPolicy, previous: float, ran_for: float) -> float:
    """Seconds to wait before the next start; `previous` is the last such wait, 0 if there was none."""
    if previous == 0 or ran_for >= policy.healthy_after:
        return policy.first
    return min(previous * policy.factor, policy.ceiling)
