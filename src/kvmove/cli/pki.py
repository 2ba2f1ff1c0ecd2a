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
@click.argument("authority", type=_FOLDER)
@click.argument("role", type=click.Choice([role.value for role in Role]))
@click.argument("name", required=False)
@click.option("--into", required=True, type=_FOLDER, help="Where ca.pem, cert.pem and key.pem go.")
@pass_options
def issue_certificate(options: Options, authority: Path, role: str, name: str | None, into: Path) -> None:
    """Issue a certificate, signed by the authority in the folder AUTHORITY.

    For an agent, NAME is its host's; for an operator, the person's; the manager needs none.
    """
    if name is None and role != Role.MANAGER:
        raise click.UsageError(f"whose certificate? kvmove pki issue {authority} {role} NAME --into {into}")
    party = Identity(Role(role), name or str(Role.MANAGER))
    issue(authority, party, into)
    made = Issued(role=party.role, name=party.name, folder=into.resolve())
    Printer(options).item(made, str(into), lambda: f"The certificate of {party} is in {made.folder}.")
