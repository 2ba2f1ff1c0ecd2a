"""`kvmove datastore`: where disks can lie."""

import click

from kvmove.cli.options import Group, Options, pass_options
from kvmove.cli.output import Cells, Listing, Printer
from kvmove.cli.session import ask
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


def _row(store: HostDatastore) -> Cells:
    return {
        "host": store.host,
        "name": store.name,
        "free": format_size(store.free),
        "size": format_size(store.size),
        "path": store.path,
        "id": str(store.id),
    }


_DATASTORES = Listing(
    _row, lambda store: f"{store.host}/{store.name}", "No datastores. List them in a host's agent.toml: [[datastore]]"
)
