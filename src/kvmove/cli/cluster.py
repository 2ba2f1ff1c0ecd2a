"""`kvmove cluster`: makes a cluster on the manager's machine; its certificates; its registry's way into etcd."""

import asyncio
from pathlib import Path

import click
from pydantic import BaseModel
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from kvmove.cli.lazy import load
from kvmove.cli.options import Group, Options, pass_options
from kvmove.cli.output import Cells, Listing, Printer, facts
from kvmove.cli.rows import local_time
from kvmove.cli.session import ask
from kvmove.cli.user import token_told
from kvmove.model.access import IssuedCertificate, RevokeRequest, UserToken


class Founded(BaseModel):
    """A cluster that was made: where its parts lie, and the first admin."""

    config: Path
    listen: str
    authority: Path
    admin: UserToken


def _row(it: IssuedCertificate) -> Cells:
    state = Text("revoked", style="red") if it.revoked else Text("good", style="green")
    return {"role": it.role, "name": it.name, "state": state, "until": local_time(it.expires), "serial": it.serial}


CERTIFICATES = Listing(_row, lambda it: it.serial, "No certificate that counts was issued.")


@click.group(cls=Group)
def cluster() -> None:
    """The cluster as a whole: its beginning, the certificates of its parties, and its registry."""


@cluster.command("init")
@click.option("--listen", metavar="HOST:PORT", help="Where the others reach this machine, port 7440 as a rule.")
@click.option("--admin", default="admin", show_default=True, help="Name of the first user.")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("/etc/kvmove/manager.toml"),
    show_default=True,
    help="The manager's configuration; written with defaults if it is not there.",
)
@pass_options
def init_cluster(options: Options, listen: str | None, admin: str, config: Path) -> None:
    """Make a cluster on this machine, which is to be the manager's: authority, certificate, first admin."""
    made, first = load("kvmove.manager.founding:found")(config, listen, admin)
    founded = Founded(config=config, listen=made.listen, authority=made.authority, admin=first)
    Printer(options).item(founded, first.token, lambda: _told(founded))


@cluster.command("certificates")
@pass_options
def list_certificates(options: Options) -> None:
    """List the certificates that were issued and have not run out."""
    Printer(options).items(ask(options, lambda manager: manager.access.certificates()), CERTIFICATES)


@cluster.command("revoke")
@click.argument("name")
@click.option("--role", help="Tells apart parties of one name: agent, viewer, operator, admin.")
@pass_options
def revoke_certificates(options: Options, name: str, role: str | None) -> None:
    """Revoke all certificates of the host or person NAME, at once."""
    asked = RevokeRequest(name=name, role=role)
    Printer(options).items(ask(options, lambda manager: manager.access.revoke(asked)), CERTIFICATES)


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


def _told(founded: Founded) -> RenderableType:
    return Stack(
        facts({"Configuration": str(founded.config), "Authority": f"{founded.authority} (guard its ca-key.pem)"}),
        "",
        token_told(founded.admin),
        "\nNext, on this machine:\n",
        "systemctl enable --now kvmove-manager",
        "kvmove host add NAME --control HOST:7441     # for each host; prints what to run there",
    )
