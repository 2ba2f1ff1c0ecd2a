"""`kvmove balance`: how evenly the hosts are loaded, what would make it better, and the rules on where VMs run."""

import click
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from kvmove.cli.asking import show_and_ask
from kvmove.cli.options import Group, Options, pass_options
from kvmove.cli.output import Cells, Listing, Printer, facts, printable, table
from kvmove.cli.parent_task import follow_parent, started
from kvmove.cli.rows import local_time
from kvmove.cli.session import ask
from kvmove.client.manager import ManagerClient
from kvmove.errors import CheckFailed
from kvmove.model.placement import Action, Applied, BalancePlan, BalanceStatus, Recommendation, Rule, RuleKind
from kvmove.model.toml_file import fit
from kvmove.units import format_duration, format_size


@click.group(cls=Group)
def balance() -> None:
    """Balance load over hosts and datastores. How, and what happens by itself, says manager.toml: [balance]."""


@balance.command("status")
@pass_options
def status(options: Options) -> None:
    """Show how busy each host is, and how uneven that is."""
    found = ask(options, lambda manager: manager.balance_status())
    Printer(options).item(found, str(found.mode), lambda: _render_status(found))


@balance.command("plan")
@pass_options
def plan(options: Options) -> None:
    """Show what is recommended now, with benefit, cost and risk; change nothing."""
    found = ask(options, lambda manager: manager.balance_plan())
    names = "\n".join(it.id for it in found.recommendations)
    Printer(options).item(found, names, lambda: _render_plan(found))


@balance.command("apply")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--yes", is_flag=True, help="Do not ask whether the plan is right.")
@click.option("--no-wait", is_flag=True, help="Start it, print the task and leave.")
@pass_options
def apply(options: Options, ids: tuple[str, ...], yes: bool, no_wait: bool) -> int:
    """Apply recommendations of a plan that you have seen, by their IDs, or all that is recommended now.

    Without an ID the plan is shown first; on a terminal you are asked, and what was shown is what is done.
    """
    printer = Printer(options)
    if not ids:
        plan = ask(options, lambda manager: manager.balance_plan())
        if not plan.recommendations:
            raise CheckFailed("nothing is recommended: there is nothing to apply", hint="kvmove balance status")
        show_and_ask(printer, _render_plan(plan), "Apply all of it?", yes=yes)
        ids = tuple(it.id for it in plan.recommendations)
    return ask(options, lambda manager: _apply(manager, ids, printer, wait=not no_wait))


@balance.command("history")
@pass_options
def history(options: Options) -> None:
    """List what was applied, newest first."""
    Printer(options).items(ask(options, lambda manager: manager.balance_history()), _HISTORY)


@balance.group("rules", cls=Group)
def rules() -> None:
    """Rules on where VMs run: together, apart, on certain hosts."""


@rules.command("list")
@pass_options
def list_rules(options: Options) -> None:
    """List the rules."""
    Printer(options).items(ask(options, lambda manager: manager.rules()), _RULES)


@rules.command("add")
@click.argument("name")
@click.argument("kind", type=click.Choice([str(kind) for kind in RuleKind]))
@click.argument("vms", metavar="VM...", nargs=-1, required=True)
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="For must and should: a host; may be repeated.")
@pass_options
def add_rule(options: Options, name: str, kind: str, vms: tuple[str, ...], hosts: tuple[str, ...]) -> None:
    """Add a rule about VMs: keep them together or apart, or on hosts where they must or should run."""
    rule = fit({"name": name, "kind": kind, "vms": vms, "hosts": hosts}, Rule, "the rule")
    added = ask(options, lambda manager: manager.add_rule(rule))
    Printer(options).item(added, added.name, lambda: f"Rule {added.name} holds from now on.")


@rules.command("remove")
@click.argument("name")
@pass_options
def remove_rule(options: Options, name: str) -> None:
    """Remove a rule. No VM moves by this."""
    ask(options, lambda manager: manager.remove_rule(name))
    Printer(options).note(f"Rule {name} is gone.")


async def _apply(manager: ManagerClient, ids: tuple[str, ...], printer: Printer, *, wait: bool) -> int:
    task = await manager.apply_balance(ids)
    return await follow_parent(manager, task, printer) if wait else started(task, printer)


def _render_status(found: BalanceStatus) -> RenderableType:
    lasting = ""
    if found.lasting is not None:
        held = format_duration(found.hold_seconds)
        lasting = f"something is recommended for {format_duration(found.lasting)}; automatic mode acts after {held}"
    uneven = found.imbalance > found.threshold
    words = Text(
        f"{100 * found.imbalance:.1f} % spread, limit {100 * found.threshold:.0f} %", "yellow" if uneven else ""
    )
    head = facts({"Mode": str(found.mode), "Imbalance": words, "Lasting": lasting, "Note": found.note})
    if not found.hosts:
        return head
    rows = [
        {
            "host": it.name,
            "state": it.state,
            "cpu": f"{100 * it.cpu:.0f} %",
            "memory": f"{100 * it.memory:.0f} %",
            "vms": str(it.vms),
        }
        for it in found.hosts
    ]
    return Stack(head, Text(), table(rows))


def _render_plan(found: BalancePlan) -> RenderableType:
    parts: list[RenderableType] = []
    if found.recommendations:
        after = f"the spread goes from {100 * found.imbalance:.1f} % to {100 * found.imbalance_after:.1f} %"
        parts += [Text(f"{len(found.recommendations)} recommended; {after}."), Text()]
        parts.append(table([_row(it) for it in found.recommendations]))
    else:
        parts.append(Text(f"Nothing is recommended; the spread is {100 * found.imbalance:.1f} %."))
    for it in found.recommendations:
        parts += [Text(), Text.assemble((it.id, "bold"), f"  {printable(it.reason)}"), Text(f"{'':10}risk: {it.risk}")]
    parts += [Text(f"\nNote: {printable(note)}", style="yellow") for note in found.notes]
    return Stack(*parts)


def _row(it: Recommendation) -> Cells:
    what = f"{it.kind} move" if it.action is Action.MOVE else str(it.action)
    return {
        "id": it.id,
        "for": str(it.cause),
        "do": what,
        "vm": f"{it.vm}/{it.disk}" if it.disk else it.vm,
        "from": it.source,
        "to": it.destination,
        "benefit": f"{it.benefit:.1f}",
        "cost": f"{it.cost.points:.1f} ({format_size(it.cost.bytes)}, {format_duration(it.cost.seconds)})",
    }


def _applied_row(it: Applied) -> Cells:
    return {"at": local_time(it.at), "by": it.by, **_row(it.recommendation), "outcome": it.outcome}


def _rule_row(rule: Rule) -> Cells:
    return {"name": rule.name, "kind": str(rule.kind), "vms": ", ".join(rule.vms), "hosts": ", ".join(rule.hosts)}


_HISTORY = Listing(_applied_row, lambda it: it.recommendation.id, "No recommendation has been applied yet.")
_RULES = Listing(_rule_row, lambda rule: rule.name, "No rules. Add one: kvmove balance rules add NAME apart VM VM")
