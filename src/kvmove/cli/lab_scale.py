"""`kvmove lab scale`: how the manager does with 10, 100 and 1,000 hosts."""

import asyncio
from pathlib import Path

import click

from kvmove.cli.lab_runs import results_option
from kvmove.cli.options import Command, Form, Options, pass_options
from kvmove.cli.output import Printer, table
from kvmove.lab.results import write
from kvmove.lab.scale import ScaleResult, measure_all, vms_of


@click.command(cls=Command)
@results_option
@pass_options
def scale(options: Options, results: Path) -> None:
    """Measure the manager with 10, 100 and 1,000 simulated hosts: a balance plan, the start of a task, memory."""
    printer = Printer(options)
    printer.note("Planning for 10, 100 and 1,000 hosts that are only figures; registry and tasks are real.")
    found = asyncio.run(measure_all())
    path = write(results, "scale", found)
    printer.item(found, "scale", lambda: table(_rows(found)))
    if options.output is Form.TABLE:
        printer.note(f"\nIt is in {path}.")


def _rows(found: ScaleResult) -> list[dict[str, str]]:
    return [
        {
            "hosts": hosts,
            "VMs": str(vms_of(hosts)),
            "plan": f"{row.plan_seconds:.3f} s",
            "task start": f"{row.task_start_ms:.1f} ms",
            "memory": f"{row.memory_mib:.0f} MiB",
        }
        for hosts, row in found.root.items()
    ]
