"""`kvmove lab matrix`: moves VMs in every way there is, and says of each case what came of it."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import click
from rich.text import Text

from kvmove.cli.lab_runs import FOUND_WRONG, Onlooker, guest_option, results_option
from kvmove.cli.options import Command, Form, Options, pass_options
from kvmove.cli.output import Cells, Listing, Printer, plain
from kvmove.errors import InvalidInput
from kvmove.lab.matrix import run_matrix
from kvmove.lab.matrix_cases import chosen
from kvmove.lab.matrix_judge import Judged
from kvmove.lab.results import write


@click.command(cls=Command)
@click.option("--only", multiple=True, metavar="TEXT", help="Only cases whose name holds this; may be repeated.")
@click.option("--quick", is_flag=True, help="Only a handful of cases, one of each kind.")
@results_option
@guest_option
@pass_options
def matrix(options: Options, only: tuple[str, ...], quick: bool, results: Path, guest_folder: Path) -> int:
    """Move a VM in every way: kind of move, images at both ends, number of disks, running, paused and off."""
    printer = Printer(options)
    cases = chosen(only, quick=quick)
    if not cases:
        raise InvalidInput(
            f"no case is called {' or '.join(only)}", hint="a name is: unified raw→qcow2 thin 3 disks off"
        )
    found = asyncio.run(
        run_matrix(cases, guest_folder, Onlooker(printer, moves=False), lambda one: _tell(printer, one))
    )
    rows = [one.row for one in found]
    path = write(results, "matrix", rows)
    if options.output is not Form.NDJSON:  # that has told them already
        listing = Listing(lambda row: _cells(next(one for one in found if one.row is row)), lambda row: row.case, "")
        printer.items(rows, listing)
    counted = ", ".join(f"{count} {result}" for result, count in Counter(row.result for row in rows).items())
    bad = sum(not one.good for one in found)
    printer.note(f"\n{len(rows)} cases: {counted}; not as they must be: {bad}. They are in {path}.")
    return FOUND_WRONG if bad else 0


def _tell(printer: Printer, one: Judged) -> None:
    if printer.options.output is Form.NDJSON:
        printer.line(json.dumps(plain(one.row), ensure_ascii=False))
    printer.note("  " + ", ".join(text for text in (str(value) for value in _cells(one).values()) if text))


def _cells(one: Judged) -> Cells:
    row = one.row
    return {
        "case": row.case,
        "result": Text(row.result if one.good else f"{row.result} (WRONG)", "green" if one.good else "bold red"),
        "lost": "" if row.lost is None else f"{row.lost} lost",
        "equal": {True: "equal", False: "NOT EQUAL", None: ""}[row.equal],
        "stun": "" if row.stun_ms is None else f"{row.stun_ms:.0f} ms",
        "reason": row.reason,
    }
