"""`kvmove task pause`, `resume`, `switchover` and `set`: an operator's words on a task that has not ended."""

from collections.abc import Awaitable, Callable
from typing import Any

import click

from kvmove.cli.options import Command, Options, pass_options
from kvmove.cli.output import Printer
from kvmove.cli.param_types import Milliseconds
from kvmove.cli.session import ask
from kvmove.client.manager import ManagerClient
from kvmove.model.task import Priority, Task, TaskChange
from kvmove.model.toml_file import fit


@click.command(cls=Command)
@click.argument("task_id", metavar="ID")
@pass_options
def pause(options: Options, task_id: str) -> None:
    """Hold the copy of a move; what is copied stays in step, and the guest goes on unhindered."""
    _say(options, lambda manager: manager.pause_task(task_id), "Paused. Go on with: kvmove task resume {0.id}")


@click.command(cls=Command)
@click.argument("task_id", metavar="ID")
@pass_options
def resume(options: Options, task_id: str) -> None:
    """Go on with a paused copy."""
    _say(options, lambda manager: manager.resume_task(task_id), "Goes on. Watch it: kvmove task watch {0.id}")


@click.command(cls=Command)
@click.argument("task_id", metavar="ID")
@pass_options
def switchover(options: Options, task_id: str) -> None:
    """Let a move switch over that was started with --switchover manual or a time; at once if it is in step."""
    told = "Told to switch over as soon as it is in step. Watch it: kvmove task watch {0.id}"
    _say(options, lambda manager: manager.switch_task_over(task_id), told)


@click.command("set", cls=Command)
@click.argument("task_id", metavar="ID")
@click.option(
    "--priority", type=click.Choice([str(priority) for priority in Priority]), help="Of a queued task: who goes first."
)
@click.option("--bandwidth", metavar="RATE", help="Cap for disks and memory together, 50MiB or 5Gbit; none: no cap.")
@click.option("--max-downtime", "max_downtime_ms", type=Milliseconds(), help="How long the VM may stand still.")
@pass_options
def change(options: Options, /, task_id: str, **wanted: Any) -> None:
    """Change something about a task that has not ended; what is not named stays."""
    given = {name: value for name, value in wanted.items() if value is not None}
    if not given:
        raise click.UsageError("say what to change: --priority, --bandwidth or --max-downtime")
    asked = fit(given, TaskChange, "the change")
    _say(options, lambda manager: manager.change_task(task_id, asked), "Changed. See it: kvmove task show {0.id}")


STEERING = (pause, resume, switchover, change)
"""To be put under `kvmove task`."""


def _say(options: Options, send: Callable[[ManagerClient], Awaitable[Task]], told: str) -> None:
    found = ask(options, send)
    Printer(options).item(found, found.id, lambda: told.format(found))
