"""`kvmove datastore`: where disks can lie."""

from pathlib import Path

import click

from kvmove.cli.options import Group, Options, pass_options
from kvmove.cli.output import Cells, Listing, Printer
from kvmove.cli.rows import datastore_kind
from kvmove.cli.session import ask
from kvmove.disk.datastore import Datastore
from kvmove.model.host import HostDatastore
from kvmove.units import format_size


@click.group(cls=Group)
def datastore() -> None:
    """The folders of the hosts that hold disks."""


@datastore.command("list")
@pass_options
def list_datastores(options: Options) -> None:
    """List the datastores of all hosts that answer."""
    Printer(options).items(ask(options, lambda manager: manager.datastores()), _DATASTORES)


@datastore.command("create")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@pass_options
def create_datastore(options: Options, name: str, folder: Path) -> None:
    """Make the existing FOLDER of this host a datastore.

    Then list it in the host's agent.toml and restart the agent, which touches no guest.
    """
    made = Datastore.create(name, folder.resolve()).info()
    Printer(options).item(
        made, made.name, lambda: f'Now in agent.toml:\n\n[[datastore]]\nname = "{made.name}"\npath = "{made.path}"'
    )


def _row(store: HostDatastore) -> Cells:
    return {
        "host": store.host,
        "name": store.name,
        "free": format_size(store.free),
        "size": format_size(store.size),
        "on": datastore_kind(store),
        "path": store.path,
        "id": str(store.id),
    }


_DATASTORES = Listing(
    _row, lambda store: f"{store.host}/{store.name}", "No datastores. List them in a host's agent.toml: [[datastore]]"
)
