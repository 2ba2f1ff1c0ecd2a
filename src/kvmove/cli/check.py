"""`kvmove check`: what a move would do and all that speaks against it; without a host, where the VM could go."""

from typing import Any

import click
from rich.console import Group, RenderableType
from rich.text import Text

from kvmove.cli.findings import findings_of, render_findings
from kvmove.cli.move_options import move_options, move_request
from kvmove.cli.options import Command, Options, pass_options
from kvmove.cli.output import Cells, Printer, table
from kvmove.cli.plan import render_check, render_plan
from kvmove.cli.session import ask
from kvmove.errors import CheckFailed
from kvmove.migration.findings import blocks
from kvmove.model.finding import Finding
from kvmove.model.move import MoveRequest
from kvmove.model.ranking import MoveRanking, RankedHost
from kvmove.model.strict import Strict
from kvmove.units import format_size

_MOST_SHOWN = 20
"""Hosts whose findings are shown to a person; the table has all."""


class Blocked(Strict):
    """A check that found a blocker, as data: there is no plan then."""

    plan: None = None
    findings: tuple[Finding, ...]


@click.command(cls=Command)
@click.argument("vm")
@click.option("--to", "host", metavar="HOST", help="The host to check; without it all hosts are, best first.")
@click.option("--all", "everywhere", is_flag=True, help="Check all hosts; so it is without --to.")
@move_options
@pass_options
def check(options: Options, /, vm: str, host: str | None, everywhere: bool, **given: Any) -> int:
    """Tell what moving the VM to HOST would do, and all that blocks it or is to be known; change nothing.

    It is what `kvmove move --dry-run` tells. Without --to every host is checked, and they are listed from the best to
    the worst. Exit code 3: the move is blocked, or no host is free of blockers.
    For a move of disks alone name the VM's own host: --to HOST --datastore NAME.
    """
    if host is not None and everywhere:
        raise click.UsageError("--to names one host and --all means all; leave out one of them")
    request = move_request(vm, host, given, anywhere=True)
    return _rank(options, request) if host is None else check_one(options, request)


def check_one(options: Options, request: MoveRequest) -> int:
    """Check one move; gives the exit code."""
    printer = Printer(options)
    try:
        checked = ask(options, lambda manager: manager.check_move(request, forecast=True))
    except CheckFailed as error:
        found = findings_of(error)
        if not found:
            raise
        said = _blocked(request, error.vm_state, found)
        printer.item(Blocked(findings=found), "", lambda: said)
        return error.exit_code
    printer.item(checked, checked.plan.move_id, lambda: render_check(checked))
    return 0


def _blocked(request: MoveRequest, vm_state: str, found: tuple[Finding, ...]) -> RenderableType:
    count = sum(map(blocks, found))
    there = f" to {request.host}" if request.host else ""
    said = f"{request.vm} ({vm_state}) cannot move{there}: {count} blocker{'' if count == 1 else 's'}"
    return Group(Text(said, style="bold"), *render_findings(found), Text())


def _rank(options: Options, request: MoveRequest) -> int:
    ranking = ask(options, lambda manager: manager.rank_hosts(request))
    best = next((it.host for it in ranking.hosts if it.plan is not None), "")
    Printer(options).item(ranking, best, lambda: _render(ranking))
    return 0 if best else CheckFailed.exit_code


def _render(ranking: MoveRanking) -> RenderableType:
    if not ranking.hosts:
        return Text(f"There is no host but {ranking.source}, where {ranking.vm} is.")
    parts: list[RenderableType] = [table([_row(number, host) for number, host in enumerate(ranking.hosts, 1)])]
    parts += [Text(), Text(ranking.order, style="dim")]
    for host in ranking.hosts[:_MOST_SHOWN]:
        if host.findings:
            parts += [Text(), Text(host.host, style="bold"), *render_findings(host.findings)]
    best = ranking.hosts[0]
    if best.plan is not None:
        parts += [Text(), Text(f"The best, {best.host}:"), render_plan(best.plan)]
    return Group(*parts, Text())


def _row(number: int, host: RankedHost) -> Cells:
    memory = "no answer"
    if host.memory_free is not None and host.memory_total is not None:
        memory = f"{format_size(host.memory_free)} of {format_size(host.memory_total)}"
    return {
        "": str(number),
        "host": host.host,
        "possible": Text("yes", style="green") if host.plan is not None else Text("no", style="red"),
        "memory free": memory,
        "running moves": str(host.running_moves),
        "why here": host.why,
    }
