"""The benchmark as a page: a table and a picture a scenario, what it ran on, what is measured, how to repeat it.

`python -m kvmove.lab.bench_page RESULTS DOCS` writes DOCS/benchmarks.md and its pictures from what `kvmove lab bench`
left in RESULTS. The figures on the page are those of the files and no others: it is made anew, never edited. It needs
matplotlib, the extra `bench`. Deliberately not here: what the figures are worth; a reader judges.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmove.errors import NotFound
from kvmove.lab.bench_cells import figures
from kvmove.lab.bench_conditions import Conditions
from kvmove.lab.bench_pictures import draw
from kvmove.lab.bench_results import SideRun, read_runs, summary
from kvmove.lab.bench_scenarios import SCENARIOS, SIDE_NAMES, SPARE_SECONDS, SYNC_TIMES, WIRE_TIMES, Scenario, Side
from kvmove.lab.bench_scenarios import full as in_full
from kvmove.units import format_size

PAGE = "benchmarks.md"
IMAGES = "images"

_INTRODUCTION = f"""# Benchmarks

One guest, which writes all the time, is moved between two hosts of [the lab](lab.md) in different ways, one after
another, with its memory and its disk. Both hosts, the guest and whoever moves it share one machine. `make bench`
measures; `make bench-page` writes this page from what it measured.

- **kvmove**: a unified move, encrypted as it is by default, or in clear as all the others are.
- **libvirt**: `virsh migrate --live --copy-storage-all`; with "synchronous writes" also
  `--copy-storage-synchronous-writes --auto-converge`.
- **plain QEMU**: `blockdev-mirror` to an NBD server and `migrate`, by hand, with QEMU's defaults.
- **the wire**: what iperf3 carries over all NICs of the scenario at once.

A side is **given up** after {WIRE_TIMES:.0f} times what the wire would have taken ({SYNC_TIMES:.0f} times with
libvirt's synchronous writes) and {SPARE_SECONDS:.0f} seconds. Its time says when that was, its other figures are those
until then, and it has none of those that only a move that ends can have."""

_COLUMNS = """## The columns

| column | meaning |
|---|---|
| runs | how many of that side; all figures are medians of them |
| time | from the request to the end, by a clock outside of all sides |
| spread | (longest - shortest) / median of the time |
| of the wire's | time / what the wire needs for the disk's data and the memory that the guest had touched |
| sent | what the kernel counted on the source's migration NICs, headers and all |
| writes/s | the guest's completed writes until the switchover |
| p50, p99, worst ms | how long such a write took, by the guest's clock |
| stood still | how long the guest's clock stood still |
| CPU s/GiB | what the machine did beside the guest, for each GiB that was to be moved |
| allocated | what the disk takes at the destination afterwards |

Empty: it has no such figure. The pictures show the guest's writes a second, from the request on, in the first run of
each side."""

_AGAIN = """## Again

```
make bench                                       # each side once; about half an hour
make bench BENCH=--full                          # twice the disk, three runs of each side; hours
make bench BENCH='--only one_nic_write_load'     # one scenario, or one side
make bench-page                                  # this page, from the results of the last run
```

Nothing else may run on the machine meanwhile. The figures are in `build/results/bench.json`, each run in
`bench-runs.json`, what it ran on in `bench-conditions.json`. Absolute figures of one machine that plays two hosts
change with whatever else it does: compare sides of one run, and quote ratios."""


@dataclass(frozen=True)
class Measured:
    """All that a benchmark left: each run, and what it ran on."""

    runs: Sequence[SideRun]
    conditions: Conditions


def page(measured: Measured, pictures: Mapping[str, str]) -> str:
    """The page in Markdown. `pictures`: by scenario, a picture's path from the page."""
    known = {it.name: in_full(it) if measured.conditions.full else it for it in SCENARIOS}
    parts = [_INTRODUCTION, _machine(measured.conditions), _COLUMNS]
    for name, sides in summary(measured.runs).items():
        runs = [run for run in measured.runs if run.scenario == name]
        rows = [
            {
                "": SIDE_NAMES[Side(side)],
                "runs": str(sum(run.side == side for run in runs)),
                **figures(one, [run for run in runs if run.side == side]),
            }
            for side, one in sides.items()
        ]
        parts += [f"## {name}\n\n{_what(known[name])}", _table(rows)]
        if name in pictures:
            parts.append(f"![The guest's writes a second over time, each side]({pictures[name]})")
    if measured.conditions.findings:
        parts.append("## Not moved\n\nThese runs have no figures:\n")
        parts[-1] += "".join(f"\n- {finding}" for finding in measured.conditions.findings)
    return "\n\n".join([*parts, _AGAIN]) + "\n"


def _machine(here: Conditions) -> str:
    guests = "with KVM" if here.accelerator == "kvm" else "without hardware virtualization (TCG)"
    return (
        f"Measured on {here.day}: {here.cores} × {here.processor}, {format_size(here.memory)} of memory, Linux "
        f"{here.kernel},\nguests {guests}; QEMU {here.qemu}, libvirt {here.libvirt}, kvmove {here.kvmove}."
    )


def _what(scenario: Scenario) -> str:
    vm = scenario.vm
    rates = " and ".join(_nic_rate(rate) for rate in scenario.nics)
    writes = f"{vm.rate} writes a second" if vm.rate else "as many writes as it can"
    return (
        f"Migration NICs: {rates}; round trip {scenario.round_trip_ms} ms more than the machine's own.\n"
        f"Guest: {format_size(vm.memory)} of memory, {vm.ram_rate} pages a second changed in {vm.ram_mib} MiB of it; "
        f"a disk of {format_size(vm.disk)}\nwith {format_size(vm.data)} of data, {writes} of 4 KiB."
    )


def _nic_rate(rate: int) -> str:
    return f"{rate * 8 / 1e6:.0f} Mbit/s" if rate else "not shaped"


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Columns that no row fills are left out."""
    columns = [column for column in rows[0] if not column or any(row[column] for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def read(results: Path) -> Measured:
    """What `kvmove lab bench` left.

    :raise NotFound: it left nothing there.
    """
    try:
        conditions = Conditions.model_validate_json((results / "bench-conditions.json").read_bytes())
        return Measured(read_runs(results), conditions)
    except FileNotFoundError as error:
        raise NotFound(f"{error.filename} is not there", hint="`make bench` writes it.") from error


def write_page(measured: Measured, docs: Path) -> Path:
    """Write the page and its pictures; those of an earlier run are replaced.

    :raise OSError: the folder cannot be written.
    """
    drawn = draw(measured.runs, docs / IMAGES)
    path = docs / PAGE
    path.write_text(page(measured, {name: f"{IMAGES}/{picture.name}" for name, picture in drawn.items()}))
    return path


if __name__ == "__main__":
    sys.stdout.write(f"the benchmark as a page: {write_page(read(Path(sys.argv[1])), Path(sys.argv[2]))}\n")
