"""`kvmove pki`: the small authority, and a certificate for each party."""

from datetime import timedelta
from pathlib import Path

import click
from pydantic import BaseModel

from kvmove.cli.options import Group, Options, pass_options
from kvmove.cli.output import Printer
from kvmove.pki.authority import LEAF_VALIDITY, create_authority, issue
from kvmove.pki.identity import Identity, Role
from kvmove.pki.revocation import revoke

_FOLDER = click.Path(file_okay=False, path_type=Path)


class Issued(BaseModel):
    """A certificate that was made: for whom, and where it lies."""

    role: Role
    name: str
    folder: Path


class Revoked(BaseModel):
    """A party whose certificates count no more, and how many they were."""

    role: Role
    name: str
    revoked: int


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
@click.option("--days", type=click.IntRange(1, 3650), default=LEAF_VALIDITY.days, show_default=True, help="Good for.")
@pass_options
def issue_certificate(options: Options, authority: Path, role: str, name: str | None, into: Path, days: int) -> None:
    """Issue a certificate, signed by the authority in the folder AUTHORITY.

    For an agent, NAME is its host's; for a person, the person's; the manager needs none.
    """
    party = _party(role, name)
    issue(authority, party, into, valid_for=timedelta(days=days))
    made = Issued(role=party.role, name=party.name, folder=into.resolve())
    Printer(options).item(made, str(into), lambda: f"The certificate of {party} is in {made.folder}.")


@pki.command("revoke")
@click.argument("authority", type=_FOLDER)
@click.argument("role", type=click.Choice([role.value for role in Role]))
@click.argument("name", required=False)
@pass_options
def revoke_certificates(options: Options, authority: Path, role: str, name: str | None) -> None:
    """Revoke all certificates that were issued to a party so far.

    A manager that has the folder AUTHORITY refuses them within seconds, and so do the agents that reach it.
    """
    party = _party(role, name)
    done = Revoked(role=party.role, name=party.name, revoked=revoke(authority, party))
    Printer(options).item(done, party.name, lambda: f"{done.revoked} certificates of {party} are revoked.")


def _party(role: str, name: str | None) -> Identity:
    if name is None and role != Role.MANAGER:
        raise click.UsageError(f"whose certificate? NAME is missing; only a {Role.MANAGER} needs none")
    return Identity(Role(role), name or str(Role.MANAGER))
