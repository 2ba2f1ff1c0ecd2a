"""`kvmove host maintenance`: empty a host, keep VMs away from it, and let them come again."""

import click
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from kvmove.cli.asking import show_and_ask
from kvmove.cli.options import Group, Options, pass_options
from kvmove.cli.output import Printer, printable, table
from kvmove.cli.parent_task import follow_parent, started
from kvmove.cli.session import ask
from kvmove.client.manager import ManagerClient
from kvmove.model.placement import EvacuationPlan, EvacuationStep, MaintenanceRequest
from kvmove.units import format_duration, format_size


@click.group(cls=Group)
def maintenance() -> None:
    """Empty a host for work on it, and keep VMs away until it is done."""


@maintenance.command("enter")
@click.argument("host")
@click.option("--move-disks", is_flag=True, help="Move disks too that no other host reaches; else their VMs remain.")
@click.option("--max", "at_once", type=click.IntRange(1, 64), metavar="N", help="At most N moves at a time.")
@click.option("--dry-run", is_flag=True, help="Print the plan; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask whether the plan is right.")
@click.option("--wait", is_flag=True, help="Wait until the host is empty. The exit code is the task's.")
@pass_options
def enter(
    options: Options, host: str, move_disks: bool, at_once: int | None, dry_run: bool, yes: bool, wait: bool
) -> int:
    """Move all VMs off HOST; from now on none is started there or moved to it.

    The plan comes first: which VM goes where, why, and when it would be done; on a terminal you are asked, and what was
    shown is what is done. VMs with disks that no other host reaches remain, unless --move-disks. The host stays in
    maintenance until `exit`.
    """
    printer = Printer(options)
    request = MaintenanceRequest(move_disks=move_disks, at_once=at_once)
    plan = ask(options, lambda manager: manager.check_maintenance(host, request))
    if dry_run:
        printer.item(plan, plan.host, lambda: _render(plan))
        return 0
    show_and_ask(printer, _render(plan), f"Enter maintenance of {plan.host} so?", yes=yes)
    followed = request.model_copy(update={"steps": tuple(step.decided for step in plan.steps)})
    return ask(options, lambda manager: _enter(manager, host, followed, printer, wait=wait))


@maintenance.command("exit")
@click.argument("host")
@pass_options
def leave(options: Options, host: str) -> None:
    """Let HOST take VMs again; an evacuation under way is cancelled. VMs that left it do not come back by this."""
    found = ask(options, lambda manager: manager.exit_maintenance(host))
    Printer(options).item(found, found.name, lambda: f"{found.name} takes VMs again.")


async def _enter(
    manager: ManagerClient, host: str, request: MaintenanceRequest, printer: Printer, *, wait: bool
) -> int:
    task = await manager.enter_maintenance(host, request)
    return await follow_parent(manager, task, printer) if wait else started(task, printer)


def _render(plan: EvacuationPlan) -> RenderableType:
    parts: list[RenderableType] = [_headline(plan)]
    if plan.steps:
        parts += [Text(), table([_row(number, step) for number, step in enumerate(plan.steps, 1)])]
    if plan.remains:
        rows = [{"what remains": it.vm, "why": printable(it.why)} for it in plan.remains]
        parts += [Text(), table(rows)]
    return Stack(*parts, Text())


def _headline(plan: EvacuationPlan) -> Text:
    if not plan.steps:
        return Text(f"No VM moves off {plan.host}." if plan.remains else f"{plan.host} is empty.")
    count = len(plan.steps)
    vms = "1 VM moves" if count == 1 else f"{count} VMs move"
    return Text(f"{vms} off {plan.host}, at most {plan.at_once} at a time, in about {format_duration(plan.seconds)}.")


def _row(number: int, step: EvacuationStep) -> dict[str, str]:
    return {
        "": str(number),
        "vm": step.vm,
        "is": step.power,
        "to": step.destination,
        "move": f"{step.kind}, {format_size(step.cost.bytes)}",
        "from": format_duration(step.starts) if step.starts else "at once",
        "until": format_duration(step.ends),
        "why there": step.why,
    }
