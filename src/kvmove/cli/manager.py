"""`kvmove manager`: runs the manager in the foreground."""

from pathlib import Path

import click

from kvmove.cli.lazy import load


@click.command
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("/etc/kvmove/manager.toml"),
    show_default=True,
    help="Its configuration.",
)
def manager(config: Path) -> None:
    """Run the manager until it is told to end (SIGTERM). Moves under way go on without it."""
    load("kvmove.manager.daemon:run")(config)
