"""`kvmove lab bench`: kvmove beside libvirt, plain QEMU and the wire itself, in one lab a scenario."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from kvmove.cli.lab_runs import Onlooker, guest_option, report_verdict, results_option
from kvmove.cli.options import Command, Form, Options, pass_options
from kvmove.cli.output import Printer, table
from kvmove.lab.bench import run_bench
from kvmove.lab.bench_cells import figures
from kvmove.lab.bench_conditions import conditions_here
from kvmove.lab.bench_results import BenchResult, SideRun, summary
from kvmove.lab.bench_scenarios import chosen
from kvmove.lab.bench_scenarios import full as in_full
from kvmove.lab.results import write, write_data

FULL_ROUNDS = 3


@click.command(cls=Command)
@click.option("--full", is_flag=True, help=f"Twice the disk, {FULL_ROUNDS} runs of each side, medians, their spread.")
@click.option("--only", "words", multiple=True, help="A scenario or a side; may be given several times.")
@results_option
@guest_option
@pass_options
def bench(options: Options, full: bool, words: tuple[str, ...], results: Path, guest_folder: Path) -> int:
    """Measure kvmove beside libvirt, plain QEMU and the wire. Nothing else may run on the machine meanwhile."""
    printer = Printer(options)
    scenarios, sides = chosen(words)
    if full:
        scenarios = tuple(in_full(it) for it in scenarios)
    rounds = FULL_ROUNDS if full else 1
    conditions = conditions_here(full)
    onlooker = Onlooker(printer, moves=False)
    outcome = asyncio.run(run_bench(scenarios, sides, rounds, guest_folder, onlooker))
    found = summary(outcome.runs)
    write(results, "bench-runs", outcome.runs)
    write(results, "bench-conditions", conditions.model_copy(update={"findings": outcome.findings}))
    write_data(results, "bench", _as_json(found))
    if options.output is Form.TABLE:
        printer.out.print(_render(found, outcome.runs))
    else:
        printer.json(_as_json(found))
    printer.note(f"\nThese figures are in {results / 'bench.json'}, each run in {results / 'bench-runs.json'}.")
    return report_verdict(printer, outcome.findings)


def _as_json(found: BenchResult) -> dict[str, dict[str, object]]:
    return {
        scenario: {side: one.model_dump(mode="json") for side, one in sides.items()}
        for scenario, sides in found.items()
    }


def _render(found: BenchResult, runs: Sequence[SideRun]) -> RenderableType:
    parts: list[RenderableType] = []
    for scenario, sides in found.items():
        rows = [
            {"side": side, **figures(one, [run for run in runs if (run.scenario, run.side) == (scenario, side)])}
            for side, one in sides.items()
        ]
        parts += [Text(f"\n{scenario}", "bold"), table(rows)]
    return Stack(*parts)
