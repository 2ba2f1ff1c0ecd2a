"""What the guest is told, and what its console must not show."""

from typing import Any

import pytest

from kvmove.errors import InvalidInput
from kvmove.lab.guest.options import GuestOptions, Mode, Plant, serial_trouble


def test_the_command_line_has_what_was_asked_for() -> None:
    options = GuestOptions(vm=7, ip="10.0.0.5/24", recorder="10.0.0.1:7000", mode=Mode.MIXED, plant=Plant.RAM_CORRUPT)
    words = options.command_line().split()
    assert {"ledger.vm=7", "ledger.ip=10.0.0.5/24", "ledger.recorder=10.0.0.1:7000", "ledger.mode=mixed"} <= set(words)
    assert {"ledger.plant=ram_corrupt", "panic=-1", "oops=panic", "console=ttyS0"} <= set(words)
    assert not any(word.startswith("ledger.gw") for word in words)


@pytest.mark.parametrize("wrong", [{"vm": 0}, {"vm": 2**32}, {"writers": 17}, {"ip": "10.0.0.300/24"}])
def test_what_the_guest_would_not_take_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        GuestOptions(**wrong)


@pytest.mark.parametrize(
    "line",
    [
        "[    3.1] BUG: unable to handle page fault for address: ffff8880",
        "[    3.1] Oops: 0002 [#1] PREEMPT SMP NOPTI",
        "[    3.1] Kernel panic - not syncing: Fatal exception",
        "[    9.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
        "[    5.0] I/O error, dev vda, sector 8 op 0x1:(WRITE)",
        "ledger: CORRUPT page=7 generation=3 total=1",
        "ledger: t=5 writes=10 gap_ms=1.0 corrupt=2 errors=0 boot=1",
        "ledger: t=5 writes=10 gap_ms=1.0 corrupt=0 errors=1 boot=1",
    ],
)
def test_trouble_on_the_console_is_found(line: str) -> None:
    assert serial_trouble(f"ledger: t=1 writes=3\n{line}\n") == [line]


def test_a_healthy_console_has_no_trouble() -> None:
    healthy = "ledger: t=12 writes=3120 gap_ms=10.4 corrupt=0 errors=0 boot=8f3a000000000001\n"
    assert serial_trouble(healthy * 3) == []
