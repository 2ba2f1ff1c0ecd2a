"""`kvmove lab downtime`: how long a guest stands still in each kind of move; what moving a fresh disk costs."""

import asyncio
from pathlib import Path

import click
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from kvmove.cli.lab_runs import Onlooker, guest_option, report_verdict, results_option, tell
from kvmove.cli.options import Command, Options, pass_options
from kvmove.cli.output import Cells, Printer, table
from kvmove.lab.downtime import DOWNTIME_LAB, DOWNTIME_VM, FRESH_VM, run_downtime
from kvmove.lab.results import CopyRun, DowntimeResult, DowntimeSummary
from kvmove.units import format_duration, format_size


@click.command(cls=Command)
@click.option("--runs", type=click.IntRange(1), default=10, show_default=True, help="How many moves of each kind.")
@results_option
@guest_option
@pass_options
def downtime(options: Options, runs: int, results: Path, guest_folder: Path) -> int:
    """Measure from the guest how long it stands still in each kind of move, and move a fresh disk each way."""
    printer = Printer(options)
    onlooker = Onlooker(printer, moves=False)
    outcome = asyncio.run(run_downtime(DOWNTIME_LAB, DOWNTIME_VM, FRESH_VM, guest_folder, runs, onlooker))
    tell(printer, results, "downtime", outcome.result, lambda: _render(outcome.result))
    return report_verdict(printer, outcome.findings)


def _render(found: DowntimeResult) -> RenderableType:
    [disk] = {(run.size, run.data) for run in found.copies}
    moved = f"\nA fresh disk of {format_size(disk[0])} with {format_size(disk[1])} of data, to another datastore\n"
    return Stack(
        Text("How long the guest stood still", "bold"), Text(), table([_summary(one) for one in found.summary]),
        Text(moved, "bold"), table([_copy(run) for run in found.copies]), Text(f"\nWrites lost: {found.lost}"),
    )  # fmt: skip


def _summary(one: DowntimeSummary) -> Cells:
    return {
        "move": str(one.kind),
        "runs": str(one.runs),
        "median": f"{one.guest_median_ms:.0f} ms",
        "worst": f"{one.guest_worst_ms:.0f} ms",
        "median says the agent": f"{one.agent_median_ms:.0f} ms",
        "worst says the agent": f"{one.agent_worst_ms:.0f} ms",
    }


def _copy(run: CopyRun) -> Cells:
    io = run.agent_io
    return {
        "moved": run.way,
        "by": ", ".join(run.moved_by),
        "time": format_duration(run.seconds),
        "stood still": f"{run.guest_ms:.0f} ms",
        "longest gap": f"{run.longest_gap_ms:.0f} ms",
        "agent read": f"{format_size(io.rchar)}, {format_size(io.read_bytes)} from disk",
        "agent wrote": f"{format_size(io.wchar)}, {format_size(io.write_bytes)} to disk",
        "guest wrote": format_size(run.guest_wrote),
    }
