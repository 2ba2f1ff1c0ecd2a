"""`kvmove cluster`: what concerns the manager's whole installation, with the manager down."""

import asyncio
from pathlib import Path

import click

from kvmove.cli.lazy import load
from kvmove.cli.options import Group, Options, pass_options
from kvmove.cli.output import Printer


@click.group(cls=Group)
def cluster() -> None:
    """The whole installation: its registry."""


@cluster.command("registry-copy")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("/etc/kvmove/manager.toml"),
    show_default=True,
    help="The manager's configuration, which names etcd already.",
)
@pass_options
def registry_copy(options: Options, config: Path) -> None:
    """Copy the registry from the manager's SQLite file into etcd. The manager must be down, and no VM may move."""
    copied = asyncio.run(load("kvmove.manager.registry_copy:copy_registry")(config))
    told = (
        f"etcd has the owners of {copied.owned} VMs, and the epochs of {copied.deleted} deleted ones. "
        f"The file is {copied.file} now. Start the manager."
    )
    Printer(options).item(copied, str(copied.file), lambda: told)
