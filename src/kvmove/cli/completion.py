"""`kvmove completion`: what a shell needs to complete commands, options and names."""

import click
from click.shell_completion import get_completion_class

from kvmove.cli.lazy import load
from kvmove.cli.options import Command, Options, pass_options
from kvmove.cli.param_types import OneOf
from kvmove.errors import CheckFailed

SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command)
@click.argument("shell", type=OneOf(SHELLS))
@pass_options
def completion(_options: Options, shell: str) -> None:
    """Print the completion script of SHELL: bash, zsh or fish.

    For this shell alone: eval "$(kvmove completion bash)". Names of VMs, hosts, datastores and tasks are the manager's,
    kept for 5 s.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # SHELLS are those that click knows
    try:
        script = kind(load("kvmove.cli.main:cli"), {}, "kvmove", "_KVMOVE_COMPLETE").source()
    except RuntimeError as error:
        raise CheckFailed(f"this {shell} cannot complete: {error}") from error
    click.echo(script)
