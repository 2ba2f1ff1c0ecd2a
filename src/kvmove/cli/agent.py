"""`kvmove agent`: runs the daemon of a host in the foreground; `kvmove agent join`: makes this machine a host."""

import asyncio
import sys
from pathlib import Path

import click
from pydantic import BaseModel

from kvmove.cli.lazy import load
from kvmove.cli.options import Group, Options, pass_options

_CONFIG = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("/etc/kvmove/agent.toml"),
    show_default=True,
    help="Its configuration.",
)


class Joined(BaseModel):
    """A host that joined: its name, where its configuration and its certificate lie."""

    name: str
    manager: str
    config: Path
    pki: Path


@click.group(cls=Group, invoke_without_command=True)
@_CONFIG
@click.pass_context
def agent(context: click.Context, config: Path) -> None:
    """Run the agent of this host until it is told to end (SIGTERM). Its end never touches a guest."""
    if context.invoked_subcommand is None:
        load("kvmove.agent.daemon:run")(config)


@agent.command("join")
@click.argument("token")
@_CONFIG
@pass_options
def join(options: Options, token: str, config: Path) -> None:
    """Join a cluster with the TOKEN that `kvmove host add` printed; `-` reads it from standard input."""
    word = sys.stdin.readline() if token == "-" else token
    parsed = load("kvmove.model.join_token:JoinToken").parse(word)
    made = asyncio.run(load("kvmove.agent.joining:join")(parsed, config))
    joined = Joined(name=made.name, manager=made.manager, config=config, pki=made.pki)
    load("kvmove.cli.output:Printer")(options).item(
        joined, joined.name, lambda: f"This is host {joined.name} of {joined.manager} now.\n\n{_next(config)}"
    )


def _next(config: Path) -> str:
    return (
        f"Next: name its migration NICs ([[nic]]) and datastores ([[datastore]]) in {config}, then\n"
        "systemctl enable --now kvmove-agent"
    )
