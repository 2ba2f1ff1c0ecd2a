"""Shows what a command is about to do, and asks whether it is right, where a person can answer.

Invariant: nobody is asked who cannot answer: without a terminal, with `-q`, or where a program reads the output, the
command goes on. What is shown stands on stderr, so that stdout has data alone.
"""

import sys

import click
from rich.console import RenderableType

from kvmove.cli.options import Form
from kvmove.cli.output import Printer


def show_and_ask(printer: Printer, plan: RenderableType, question: str, *, yes: bool) -> None:
    """Show the plan and ask; with `yes` it is only shown.

    :raise click.Abort: the answer is no.
    """
    if printer.options.quiet or printer.options.output is not Form.TABLE:
        return
    printer.aside(plan)
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True, err=True)
