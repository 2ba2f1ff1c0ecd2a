"""`kvmove version`: what runs here."""

import platform

import click
from pydantic import BaseModel

import kvmove
from kvmove.cli.options import Command, Options, pass_options
from kvmove.cli.output import Printer


class Version(BaseModel):
    kvmove: str = kvmove.__version__
    python: str = platform.python_version()


@click.command(cls=Command)
@pass_options
def version(options: Options) -> None:
    """Tell the version of kvmove and of the Python it runs on."""
    running = Version()
    Printer(options).item(running, running.kvmove, lambda: f"kvmove {running.kvmove} (Python {running.python})")
