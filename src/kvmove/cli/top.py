"""`kvmove top`: hosts and moves as they are, drawn over themselves; once where there is no terminal."""

import asyncio
from contextlib import aclosing

import click
from pydantic import BaseModel
from rich.console import RenderableType
from rich.live import Live

from kvmove.cli.options import Command, Form, Options, pass_options
from kvmove.cli.output import Printer
from kvmove.cli.session import ask
from kvmove.cli.top_view import Cluster, render
from kvmove.client.manager import ManagerClient
from kvmove.errors import Unreachable
from kvmove.model.host import HostStatus
from kvmove.model.task import Task
from kvmove.model.vm import VmStatus

_RETRY_SECONDS = 1.0
_FRAMES_PER_SECOND = 4.0


class Snapshot(BaseModel):
    """What `-o json` prints; `tasks` are those that have not ended."""

    hosts: tuple[HostStatus, ...]
    vms: tuple[VmStatus, ...]
    tasks: tuple[Task, ...]


@click.command(cls=Command)
@click.option("--once", is_flag=True, help="Print it once and leave.")
@pass_options
def top(options: Options, once: bool) -> None:
    """Hosts with their memory and moves, and VMs that move with how far they are. Ctrl-C leaves.

    Where stdout is no terminal, or with -o, it is printed once.
    """
    printer = Printer(options)
    live = printer.out.is_terminal and options.output is Form.TABLE and not once
    ask(options, lambda manager: _watch(manager, printer) if live else _print(manager, printer))


async def _print(manager: ManagerClient, printer: Printer) -> None:
    hosts, vms, tasks = await asyncio.gather(manager.hosts(), manager.vms(), manager.tasks())
    running = [task for task in tasks if not task.ended_state]
    snapshot = Snapshot(hosts=tuple(hosts), vms=tuple(vms), tasks=tuple(running))
    cluster = Cluster()
    cluster.fill(hosts, vms, running)
    printer.item(snapshot, "", lambda: render(cluster, ""))


async def _watch(manager: ManagerClient, printer: Printer) -> None:
    cluster, last, said = Cluster(), None, ""

    def picture() -> RenderableType:
        return render(cluster, said)

    with Live(get_renderable=picture, console=printer.out, screen=True, auto_refresh=False) as live:
        drawing = asyncio.create_task(_draw(live))
        try:
            while True:
                try:
                    async with aclosing(manager.events(after=last)) as events:
                        async for event in events:
                            said = ""
                            last = cluster.take(event) or last
                except Unreachable as error:
                    said = f"The manager does not answer; this is what was known last. ({error.detail})"
                await asyncio.sleep(_RETRY_SECONDS)
        finally:
            drawing.cancel()


async def _draw(live: Live) -> None:
    while True:
        live.refresh()
        await asyncio.sleep(1 / _FRAMES_PER_SECOND)
