"""`kvmove doctor`: looks for what is wrong on this machine and in the cluster, and says what to do."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.text import Text

from kvmove.cli.checks_cluster import cluster_checks
from kvmove.cli.checks_here import certificates, host_checks, manager_checks
from kvmove.cli.options import Command, Options, pass_options
from kvmove.cli.output import Cells, Printer, printable, table
from kvmove.cli.session import ask
from kvmove.cli.settings import find_target
from kvmove.errors import KvmoveError
from kvmove.model.check import Check, CheckState, Diagnosis

AGENT = Path("/etc/kvmove/agent.toml")
MANAGER = Path("/etc/kvmove/manager.toml")
_STYLE = {CheckState.OK: "green", CheckState.WARN: "yellow", CheckState.FAIL: "bold red"}
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(cls=Command)
@click.option("--agent-config", type=_FILE, metavar="FILE", help=f"The agent's, if it is not {AGENT}.")
@click.option("--manager-config", type=_FILE, metavar="FILE", help=f"The manager's, if it is not {MANAGER}.")
@click.option("--here", is_flag=True, help="This machine alone; ask no manager.")
@pass_options
def doctor(options: Options, agent_config: Path | None, manager_config: Path | None, here: bool) -> int:
    """Look for what is wrong. The exit code is 1 when a check failed, else 0.

    A machine with agent.toml is looked at as a host, one with manager.toml as the manager's, any as one that asks the
    manager. Nothing is changed.
    """
    found = diagnose(options, agent_config, manager_config, here=here)
    Printer(options).item(found, "failed" if found.failed else "ok", lambda: _render(found.checks))
    return 1 if found.failed else 0


def diagnose(options: Options, agent: Path | None, manager: Path | None, *, here: bool) -> Diagnosis:
    """All checks that this machine allows for; a file that was named is looked at, there or not."""
    checks: list[Check] = []
    if agent is not None or AGENT.exists():
        checks += host_checks(agent or AGENT)
    if manager is not None or MANAGER.exists():
        checks += manager_checks(manager or MANAGER)
    if not here:
        checks += _cluster(options)
    return Diagnosis(checks=tuple(checks))


def _cluster(options: Options) -> Iterable[Check]:
    try:
        target = find_target(options)
        if target.pki is not None:
            yield from certificates("operator", target.pki)
        yield from ask(options, lambda client: cluster_checks(client, target.server))
    except KvmoveError as error:
        yield Check(about="manager", name="manager", state=CheckState.FAIL, said=error.detail, remedy=error.hint)


def _render(checks: Sequence[Check]) -> RenderableType:
    if not checks:
        return Text("Nothing to look at: no agent.toml, no manager.toml, and no manager to ask.")
    rows: list[Cells] = [
        {"": Text(check.state, _STYLE[check.state]), "about": check.about, "check": check.name, "found": _said(check)}
        for check in checks
    ]
    counts = {state: sum(check.state is state for check in checks) for state in CheckState}
    bad = [f"{counts[state]} {word}" for state, word in ((CheckState.FAIL, "failed"), (CheckState.WARN, "to look at"))]
    total = f"{len(checks)} checks: {', '.join(bad)}." if len(checks) != counts[CheckState.OK] else "All is well."
    return Group(table(rows), "", Text(total, "bold"))


def _said(check: Check) -> Text:
    text = Text(printable(check.said))
    return text.append(f"\n→ {printable(check.remedy)}", "bold") if check.remedy else text
