"""`kvmove pki`: the small authority, and a certificate for each party."""

from pathlib import Path

import click
from pydantic import BaseModel

from kvmove.cli.options import Group, Options, pass_options
from kvmove.cli.output import Printer
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.identity import Identity, Role

_FOLDER = click.Path(file_okay=False, path_type=Path)


class Issued(BaseModel):
    """A certificate that was made: for whom, and where it lies."""

    role: Role
    name: str
    folder: Path


class Authority(BaseModel):
    """An authority that was made, and where it lies."""

    folder: Path


@click.group(cls=Group)
def pki() -> None:
    """Certificates. All parties prove who they are by one that the same authority issued."""


@pki.command("init")
@click.argument("folder", type=_FOLDER)
@pass_options
def init_authority(options: Options, folder: Path) -> None:
    """Make an authority in FOLDER: ca.pem, and ca-key.pem, which never leaves this machine."""
    create_authority(folder)
    made = Authority(folder=folder.resolve())
    Printer(options).item(made, str(folder), lambda: f"The authority is in {made.folder}. Guard its ca-key.pem.")


@pki.command("issue")
@click.argument("role", type=click.Choice([role.value for role in Role]))
@click.argument("name")
@click.option("--authority", required=True, type=_FOLDER, help="The authority's folder.")
@click.option("--into", required=True, type=_FOLDER, help="Where ca.pem, cert.pem and key.pem go.")
@pass_options
def issue_certificate(options: Options, role: str, name: str, authority: Path, into: Path) -> None:
    """Issue a certificate for NAME in ROLE: a host's agent, the manager, or an operator."""
    issue(authority, Identity(Role(role), name), into)
    made = Issued(role=Role(role), name=name, folder=into.resolve())
    Printer(options).item(made, str(into), lambda: f"{role} {name} has its certificate in {made.folder}.")
