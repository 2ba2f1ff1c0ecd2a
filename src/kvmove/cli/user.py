"""`kvmove user`: users of the API, their roles and tokens."""

import click
from rich.console import Group as Stack
from rich.console import RenderableType

from kvmove.cli.options import Group, Options, pass_options
from kvmove.cli.output import Cells, Listing, Printer, facts
from kvmove.cli.rows import local_time
from kvmove.cli.session import ask
from kvmove.model.access import NewUser, User, UserRole, UserToken


def _row(user: User) -> Cells:
    return {"name": user.name, "role": user.role, "token made": local_time(user.created)}


USERS = Listing(_row, lambda user: user.name, "There are no users. `kvmove user add NAME --role ROLE` makes one.")


@click.group(cls=Group)
def user() -> None:
    """Users of the manager's API. Each has a token and a role: viewer, operator or admin."""


@user.command("add")
@click.argument("name")
@click.option("--role", required=True, type=click.Choice([role.value for role in UserRole]), help="What it may do.")
@pass_options
def add_user(options: Options, name: str, role: str) -> None:
    """Add a user and print the token, this once."""
    new = NewUser.model_validate({"name": name, "role": role})
    _tell(options, ask(options, lambda manager: manager.access.add_user(new)))


@user.command("list")
@pass_options
def list_users(options: Options) -> None:
    """List the users and how old their tokens are."""
    Printer(options).items(ask(options, lambda manager: manager.access.users()), USERS)


@user.command("rotate")
@click.argument("name")
@pass_options
def rotate_token(options: Options, name: str) -> None:
    """Make another token and print it, this once. The one before counts no more."""
    _tell(options, ask(options, lambda manager: manager.access.rotate(name)))


@user.command("remove")
@click.argument("name")
@pass_options
def remove_user(options: Options, name: str) -> None:
    """Remove a user; the token counts no more."""
    ask(options, lambda manager: manager.access.remove_user(name))
    Printer(options).note(f"User {name} is removed.")


def _tell(options: Options, made: UserToken) -> None:
    Printer(options).item(made, made.token, lambda: token_told(made))


def token_told(made: UserToken) -> RenderableType:
    """The user with the token, which nobody can show again."""
    return Stack(
        facts({"User": made.name, "Role": made.role, "Token": made.token}),
        "\nThe token is shown this once. Put it into KVMOVE_TOKEN, or as `token` into your configuration file (0600).",
    )
