"""The page that is made of the benchmark's results."""

import random
from pathlib import Path

import pytest

from kvmove.errors import NotFound
from kvmove.lab.bench_cells import figures
from kvmove.lab.bench_conditions import Conditions, processor_name
from kvmove.lab.bench_page import Measured, page, read, write_page
from kvmove.lab.bench_pictures import POINTS, coarser
from kvmove.lab.bench_results import LatencyMs, SideResult, SideRun
from kvmove.lab.results import write

SMALL = 60 * 1024
CONDITIONS = Conditions(
    day="2026-11-23", processor="Fast One", cores=2, memory=8 << 30, kernel="6.1.0", accelerator="tcg", kvmove="0.1.0",
    qemu="7.2.22", libvirt="9.0.0", full=False,
)  # fmt: skip


def run(side: str, seconds: float, *, converged: bool = True, scenario: str = "one_nic_write_load") -> SideRun:
    moves = side != "wire"
    noise = random.Random(side)
    result = SideResult(
        seconds=seconds, wire_limit_seconds=10, bytes_sent=3 << 30, writes_per_second=400.4 if moves else None,
        latency_ms=LatencyMs(p50=1.5, p99=13.9, worst=109.6) if moves else None,
        downtime_ms=116.0 if moves and converged else None, converged=converged,
    )  # fmt: skip
    series = tuple(noise.uniform(100, 2000) for _ in range(int(seconds * 4))) if moves else ()
    return SideRun(scenario=scenario, side=side, result=result, series=series)


def rows(text: str) -> dict[str, list[str]]:
    """The lines of all tables, by their first cell."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in cells}


def test_each_side_has_a_row_of_its_figures() -> None:
    told = rows(page(Measured([run("kvmove", 14), run("qemu", 20), run("wire", 10)], CONDITIONS), {}))
    assert told[""] == [
        "runs",
        "time",
        "of the wire's",
        "sent",
        "writes/s",
        "p50 ms",
        "p99 ms",
        "worst ms",
        "stood still",
    ]
    assert told["kvmove, encrypted"] == ["1", "14.0 s", "1.40", "3.0 GiB", "400", "1.5", "13.9", "110", "116 ms"]
    assert told["plain QEMU"][1:3] == ["20.0 s", "2.00"]
    assert told["the wire"] == ["1", "10.0 s", "1.00", "3.0 GiB", "", "", "", "", ""]


def test_a_side_that_was_given_up_is_said_to_be() -> None:
    runs = [run("qemu", 45, converged=False), run("libvirt_sync", 40), run("libvirt_sync", 60, converged=False)]
    told = rows(page(Measured(runs, CONDITIONS), {}))
    assert told["plain QEMU"][1] == "45.0 s, given up"
    assert told["libvirt, synchronous writes"][:3] == ["2", "50.0 s, given up in 1 of 2 runs", "40 %"]


def test_a_run_that_failed_is_named() -> None:
    failed = CONDITIONS.model_copy(update={"findings": ("thin, qemu: the mirror broke",)})
    assert "- thin, qemu: the mirror broke\n" in page(Measured([run("kvmove", 14)], failed), {})
    assert "Not moved" not in page(Measured([run("kvmove", 14)], CONDITIONS), {})


def test_the_page_says_what_it_ran_on_and_what_was_moved() -> None:
    told = page(Measured([run("kvmove", 14), run("kvmove", 9, scenario="unequal_nics")], CONDITIONS), {})
    assert "Measured on 2026-11-23: 2 × Fast One, 8.0 GiB of memory, Linux 6.1.0," in told
    assert "guests without hardware virtualization (TCG); QEMU 7.2.22, libvirt 9.0.0, kvmove 0.1.0." in told
    assert "a disk of 2.0 GiB\nwith 1.0 GiB of data, as many writes as it can of 4 KiB." in told
    assert "Migration NICs: 1000 Mbit/s and 250 Mbit/s; round trip" in told
    in_full = page(Measured([run("kvmove", 14)], CONDITIONS.model_copy(update={"full": True})), {})
    assert "a disk of 4.0 GiB\nwith 2.0 GiB of data" in in_full


def test_the_page_is_made_of_what_the_benchmark_left(tmp_path: Path) -> None:
    results, docs = tmp_path / "results", tmp_path / "docs"
    with pytest.raises(NotFound, match=r"bench-conditions.json is not there"):
        read(results)
    write(results, "bench-conditions", CONDITIONS)
    sides = ("kvmove", "kvmove_plain", "libvirt_default", "libvirt_sync", "qemu")
    runs = [*(run(side, 200) for side in sides), run("wire", 10)]
    write(results, "bench-runs", runs)
    written = write_page(read(results), docs).read_text()
    assert "(images/writes-one_nic_write_load.png)" in written
    picture = docs / "images" / "writes-one_nic_write_load.png"
    assert picture.stat().st_size < SMALL
    assert "None" not in written


def test_the_figures_of_a_side_without_any_are_empty() -> None:
    only = run("wire", 0)
    assert set(figures(only.result, [only]).values()) == {"0 ms", "0.00", "3.0 GiB", ""}


def test_a_long_run_is_drawn_with_fewer_points() -> None:
    assert coarser((1.0, 3.0, 5.0)) == (0.25, [1, 3, 5])
    assert coarser([0.0, 2.0] * POINTS) == (0.5, [1.0] * POINTS)


def test_the_processor_has_a_name() -> None:
    assert processor_name("processor\t: 0\nmodel name\t: Fast One  \nmodel name\t: Other\n") == "Fast One"
