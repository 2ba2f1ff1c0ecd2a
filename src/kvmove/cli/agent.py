"""`kvmove agent`: runs the daemon of a host in the foreground."""

from pathlib import Path

import click

from kvmove.cli.lazy import load


@click.command
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("/etc/kvmove/agent.toml"),
    show_default=True,
    help="Its configuration.",
)
def agent(config: Path) -> None:
    """Run the agent of this host until it is told to end (SIGTERM). Its end never touches a guest."""
    load("kvmove.agent.daemon:run")(config)
