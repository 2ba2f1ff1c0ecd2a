"""`kvmove lab forecast`: forecasts many moves, makes them, and says how good the forecasts were."""

import asyncio
from pathlib import Path

import click
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from kvmove.cli.forecast import round_time, span
from kvmove.cli.lab_runs import Onlooker, guest_option, report_verdict, results_option, tell
from kvmove.cli.options import Command, Options, pass_options
from kvmove.cli.output import Cells, Printer, table
from kvmove.lab.forecasting import ForecastResult, ForecastRun, run_forecasts
from kvmove.units import format_size


@click.command(cls=Command)
@results_option
@guest_option
@pass_options
def forecast(options: Options, results: Path, guest_folder: Path) -> int:
    """Forecast 20 moves of different guests, make them, and compare."""
    printer = Printer(options)
    result = asyncio.run(run_forecasts(guest_folder, Onlooker(printer, moves=False)))
    tell(printer, results, "forecast", result, lambda: _render(result))
    wrong = f"only {result.inside_band} of {result.moves} moves ended inside their band"
    return report_verdict(printer, () if result.good else (wrong,))


def _render(result: ForecastResult) -> RenderableType:
    said = (
        f"\n{result.inside_band} of {result.moves} moves ended inside their band; the likely time was off by "
        f"{result.median_error * 100:.0f} % (median), and a band's upper end is {result.band:.1f} times its lower one."
    )
    return Stack(table([_row(run) for run in result.cases]), Text(said))


def _row(run: ForecastRun) -> Cells:
    return {
        "move": run.case,
        "forecast": round_time(run.likely),
        "band": span(run.low, run.high),
        "real": round_time(run.real),
        "": "" if run.inside else Text("outside", "yellow"),
        "off": f"{run.error * 100:.0f} %",
        "to send": format_size(run.bytes),
        "pause": f"{run.downtime_ms:.0f} ms",
        "it was": f"{run.real_downtime_ms:.0f} ms",
        "took": f"{run.asked:.1f} s",
    }
