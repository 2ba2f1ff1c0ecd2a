"""Whether a NIC's link is there, as the kernel has it. No decisions."""

from __future__ import annotations

from pathlib import Path

_DEVICES = Path("/sys/class/net")


def is_down(nic: str) -> bool:
    """Whether `nic` was taken down or has no carrier. A NIC that tells nothing (or is not called so here) is not down:
    then the streams' silence shows it."""
    try:
        return (_DEVICES / nic / "operstate").read_text().strip() in {"down", "lowerlayerdown", "notpresent"}
    except OSError:
        return False
