"""`kvmove host add` and `kvmove host remove`: hosts come and go while the manager runs."""

import click
from rich.console import Group as Stack
from rich.console import RenderableType

from kvmove.cli.options import Command, Options, pass_options
from kvmove.cli.output import Printer, facts
from kvmove.cli.rows import local_time
from kvmove.cli.session import ask
from kvmove.model.access import HostInvitation, NewHost


@click.command("add", cls=Command)
@click.argument("name")
@click.option("--control", required=True, metavar="HOST:PORT", help="Where the agent will listen, port 7441 as a rule.")
@click.option("--manager", metavar="HOST:PORT", help="Where it reaches the manager, if not at the manager's `listen`.")
@pass_options
def add_host(options: Options, name: str, control: str, manager: str | None) -> None:
    """Make a token with which the new host NAME joins, once."""
    new = NewHost.model_validate({"name": name, "control": control, "manager": manager})
    made = ask(options, lambda it: it.access.add_host(new))
    Printer(options).item(made, made.token, lambda: _told(made))


@click.command("remove", cls=Command)
@click.argument("name")
@pass_options
def remove_host(options: Options, name: str) -> None:
    """Forget a host on which no VM is, and revoke its certificate."""
    done = ask(options, lambda it: it.access.remove_host(name))
    said = f"Host {name} is removed; {done.revoked} certificates of it are revoked."
    Printer(options).item(done, name, lambda: said)


def _told(made: HostInvitation) -> RenderableType:
    return Stack(
        facts({"Host": made.name, "Control": made.control, "Good until": local_time(made.expires)}),
        f"\nOn {made.name}, as root, once:\n",
        f"kvmove agent join {made.token}",
    )
