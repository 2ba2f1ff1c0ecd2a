"""The benchmark's scenarios, and what is made of its runs."""

from pathlib import Path

import pytest

from kvmove.errors import CheckFailed, NotFound
from kvmove.lab.bench_pictures import draw
from kvmove.lab.bench_results import LatencyMs, SideResult, SideRun, spread, summary
from kvmove.lab.bench_scenarios import SCENARIOS, Side, chosen, full
from kvmove.lab.machine_cpu import busy_seconds
from kvmove.lab.touched_memory import resident_of
from kvmove.units import MIB


def run(scenario: str, side: str, seconds: float, *, converged: bool = True, p99: float | None = None) -> SideRun:
    latency = None if p99 is None else LatencyMs(p50=1, p99=p99, worst=2 * p99)
    result = SideResult(
        seconds=seconds, wire_limit_seconds=10, bytes_sent=int(seconds * 100), latency_ms=latency, converged=converged
    )
    return SideRun(scenario=scenario, side=side, result=result)


def test_a_figure_is_the_median_of_its_runs() -> None:
    runs = [run("unshaped", "qemu", seconds, p99=seconds) for seconds in (9, 3, 5)]
    found = summary([*runs, run("unshaped", "kvmove", 2), run("thin", "qemu", 7)])
    assert list(found) == ["unshaped", "thin"]
    assert (found["unshaped"]["qemu"].seconds, found["unshaped"]["qemu"].bytes_sent) == (5, 500)
    assert found["unshaped"]["qemu"].latency_ms == LatencyMs(p50=1, p99=5, worst=10)
    assert (found["unshaped"]["kvmove"].seconds, found["thin"]["qemu"].seconds) == (2, 7)
    assert spread(runs, lambda it: it.seconds) == pytest.approx(6 / 5)
    assert spread(runs[:1], lambda it: it.seconds) is None
    assert spread(runs, lambda it: it.downtime_ms) is None


def test_one_run_that_was_given_up_is_not_converged() -> None:
    runs = [run("idle", "qemu", 5), run("idle", "qemu", 30, converged=False)]
    assert not summary(runs)["idle"]["qemu"].converged


def test_the_names_are_those_that_were_promised() -> None:
    assert [it.name for it in SCENARIOS] == [
        "one_nic_write_load", "two_nics_write_load", "four_nics_write_load", "unequal_nics", "unshaped", "rtt_50ms",
        "rtt_100ms", "idle", "memory_load", "thin",
    ]  # fmt: skip
    assert list(Side) == ["kvmove", "kvmove_plain", "libvirt_default", "libvirt_sync", "qemu", "wire"]


def test_scenarios_and_sides_are_chosen_by_name() -> None:
    assert chosen([]) == (SCENARIOS, tuple(Side))
    scenarios, sides = chosen(["wire", "thin", "unshaped"])
    assert ([it.name for it in scenarios], sides) == (["unshaped", "thin"], (Side.WIRE,))
    with pytest.raises(NotFound, match="neither a scenario nor a side fast"):
        chosen(["fast"])


def test_the_full_run_has_larger_disks() -> None:
    for scenario in SCENARIOS:
        assert full(scenario).vm.disk >= scenario.vm.disk


def test_busy_is_all_but_idle_and_waiting() -> None:
    assert busy_seconds("cpu  100 20 30 9000 800 7 5 38 99 0\ncpu0 1 2 3\n") == pytest.approx(2.0)


def test_the_guests_memory_is_the_mapping_of_its_size() -> None:
    smaps = """7e00-7e10 rwxp 00000000 00:00 0
Size:            1048576 kB
KernelPageSize:        4 kB
Rss:               80000 kB
Pss:               80000 kB
7f00-7f10 rw-p 00000000 00:00 0
Size:             524224 kB
KernelPageSize:        4 kB
Rss:              111000 kB
Pss:              111000 kB
7f10-7f18 rw-p 00000000 00:00 0
Size:             524288 kB
KernelPageSize:        4 kB
Rss:                   0 kB
Pss:                   0 kB
7f20-7f30 rw-p 00000000 00:00 0
Size:                132 kB
Rss:                 132 kB
"""
    assert resident_of(smaps, 512 * MIB) == 111_000 * 1024
    with pytest.raises(CheckFailed, match="as large as its guest's RAM of 256"):
        resident_of(smaps, 256 * MIB)


def test_a_picture_is_drawn_of_each_scenario_with_writes(tmp_path: Path) -> None:
    runs = [
        run("thin", side, 2).model_copy(update={"series": (100.0, 0.0, 50.0)}) for side in ("kvmove", "libvirt_sync")
    ]
    drawn = draw([*runs, run("thin", "wire", 1), run("idle", "wire", 1)], tmp_path)
    assert drawn == {"thin": tmp_path / "writes-thin.png"}
    assert drawn["thin"].read_bytes().startswith(b"\x89PNG")
