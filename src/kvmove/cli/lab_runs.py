"""`kvmove lab demo`, `soak` and `compare`: runs that build a lab, measure, write their result as JSON, and clean up."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
from pydantic import BaseModel
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from kvmove.cli.display import display_for
from kvmove.cli.options import Command, Form, Options, pass_options
from kvmove.cli.output import Printer, facts, table
from kvmove.cli.plan import render_check
from kvmove.cli.report import render_report
from kvmove.lab import results
from kvmove.lab.compare import run_compare
from kvmove.lab.demo import DEMO_LAB, DEMO_VM, DemoOutcome, run_demo
from kvmove.lab.results import CompareResult, ContestantResult, SoakResult
from kvmove.lab.soak import SOAK_LAB, SOAK_VM, run_soak
from kvmove.model.move import MoveCheck
from kvmove.model.task import Task
from kvmove.units import format_duration, format_size

FOUND_WRONG = 1

results_option = click.option(
    "--results", type=click.Path(file_okay=False, path_type=Path), default=Path("build/results"), show_default=True,
    help="Folder for the result as JSON.",
)  # fmt: skip
guest_option = click.option(
    "--guest-folder", type=click.Path(file_okay=False, path_type=Path), default=Path("build/guest"), show_default=True,
    help="Where the guest's kernel is, or is built.",
)  # fmt: skip


class Onlooker:
    """Shows a run: words on stderr, the plan and each move as `kvmove move` would."""

    def __init__(self, printer: Printer, *, moves: bool) -> None:
        self._printer = printer
        self._moves = moves and printer.options.output in (Form.TABLE, Form.NDJSON)

    def say(self, text: str) -> None:
        self._printer.note(text)

    def plan(self, checked: MoveCheck) -> None:
        if self._moves:
            self._printer.err.print()
            self._printer.err.print(render_check(checked))

    @contextmanager
    def watching(self, task: Task) -> Iterator[Callable[[Task], None]]:
        if not self._moves:
            yield lambda _: None
            return
        display = display_for(self._printer, task)
        with display.drawing():
            yield display.show


@click.command(cls=Command)
@results_option
@guest_option
@pass_options
def demo(options: Options, results: Path, guest_folder: Path) -> int:
    """Move a running VM from one host to another on this machine, and report what happened."""
    printer = Printer(options)
    outcome = asyncio.run(run_demo(DEMO_LAB, DEMO_VM, guest_folder, Onlooker(printer, moves=True)))
    tell(printer, results, "demo", outcome.result, lambda: _render_demo(outcome))
    return report_verdict(printer, outcome.findings)


@click.command(cls=Command)
@click.option("--hops", type=click.IntRange(1), default=20, show_default=True, help="How many moves.")
@results_option
@guest_option
@pass_options
def soak(options: Options, hops: int, results: Path, guest_folder: Path) -> int:
    """Move a guest there and back under full write load, and judge disk, memory and ownership after every hop."""
    printer = Printer(options)
    outcome = asyncio.run(run_soak(SOAK_LAB, SOAK_VM, guest_folder, hops, Onlooker(printer, moves=False)))
    tell(printer, results, "soak", outcome.result, lambda: _render_soak(outcome.result))
    return report_verdict(printer, outcome.findings)


@click.command(cls=Command)
@click.option("--no-tls", is_flag=True, help="Let kvmove send unencrypted, as libvirt does here.")
@results_option
@guest_option
@pass_options
def compare(options: Options, no_tls: bool, results: Path, guest_folder: Path) -> None:
    """Move the same guest with kvmove over one NIC, over two, and with libvirt, in one lab."""
    printer = Printer(options)
    result = asyncio.run(run_compare(guest_folder, Onlooker(printer, moves=False), encrypt=not no_tls))
    tell(printer, results, "compare", result, lambda: _render_compare(result))


def tell(printer: Printer, folder: Path, target: str, result: BaseModel, render: Callable[[], RenderableType]) -> None:
    """Write the result down, print it, and say where it is."""
    path = results.write(folder, target, result)
    if printer.options.output is Form.TABLE:
        printer.out.print(render())
    else:
        printer.json(result.model_dump(mode="json", by_alias=True))
    printer.note(f"\nThese figures are in {path}.")


def report_verdict(printer: Printer, findings: tuple[str, ...] | list[str]) -> int:
    """Name what was found wrong; the command's exit code."""
    for finding in findings:
        printer.note(f"WRONG: {finding}")
    return FOUND_WRONG if findings else 0


def _render_demo(outcome: DemoOutcome) -> RenderableType:
    found, task = outcome.result, outcome.task
    down, writes, gaps = found.downtime_ms, found.writes_per_second, found.longest_gap_ms
    head = Text.assemble("\n", (f"{task.vm} moved from {task.source} to {task.destination} ", "bold green"))
    head.append(f"in {format_duration(found.seconds)}\n")
    seen = {
        "Stood still": f"{down.qemu:.0f} ms says QEMU, {down.guest:.0f} ms by the guest's clock, "
        f"{down.network:.0f} ms silent on the network",
        "Guest writes": f"{writes.before:.0f} a second before, {writes.copying:.0f} while copying, "
        f"{writes.after:.0f} after",
        "Longest write gap": f"{gaps.copying:.0f} ms while copying, {gaps.switchover:.0f} ms at the switchover",
        "NICs sent": ", ".join(f"{nic} {format_size(sent)}" for nic, sent in found.bytes.items()),
        "Ledger": f"{found.ledger.acknowledged} writes acknowledged, lost: {found.ledger.lost}",
        "Disks at switchover": "equal" if found.digests_equal else "NOT FOUND EQUAL",
        "Ran on two hosts": "YES" if found.dual_run else "never",
    }
    report: list[RenderableType] = [Text(), render_report(task.report)] if task.report else []
    return Stack(head, facts(seen), *report)


def _render_soak(found: SoakResult) -> RenderableType:
    return facts(
        {
            "Hops": str(found.hops),
            "Writes lost": str(found.lost),
            "Pages corrupt": str(found.corrupt_pages),
            "Ran on two hosts": f"{found.dual_runs} times",
            "Disks at switchover": "equal each time" if found.digests_equal else "NOT EQUAL",
            "Trouble on the console": f"{found.guest_oops} lines",
        }
    )


def _render_compare(found: CompareResult) -> RenderableType:
    contestants: Mapping[str, ContestantResult] = {
        "libvirt, synchronous": found.libvirt_sync,
        "kvmove, one NIC": found.kvmove,
        "kvmove, two NICs": found.kvmove_two_nics,
    }
    rows = [
        {
            "contestant": name,
            "time": format_duration(one.seconds),
            "writes/s": f"{one.writes_per_second:.0f}",
            "longest gap": f"{one.longest_gap_ms:.0f} ms",
            "downtime": f"{one.downtime_ms:.0f} ms",
            "sent": format_size(one.bytes_sent),
            "allocated": format_size(one.allocated_bytes),
        }
        for name, one in contestants.items()
    ]
    return table(rows)
