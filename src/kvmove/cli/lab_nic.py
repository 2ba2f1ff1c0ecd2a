"""`kvmove lab nic`: takes a migration NIC of a running lab down or up, or gives it another rate, also in mid-move."""

import asyncio

import click

from kvmove.cli.options import Command, Options, pass_options
from kvmove.cli.output import Printer
from kvmove.errors import InvalidInput, NotFound
from kvmove.lab.folders import WORLD
from kvmove.lab.lab import Lab
from kvmove.lab.lab_host import LabHost
from kvmove.model.strict import Strict
from kvmove.units import format_rate, parse_rate

UNSHAPED = "unshaped"


class NicChange(Strict):
    """What was done: `link` is `up` or `down`, or `rate` was set (bytes/s, 0: unshaped)."""

    lab: str
    host: str
    nic: str
    link: str | None
    rate: int | None


@click.command("nic", cls=Command)
@click.option("--name", default="lab", show_default=True, help="The lab's name.")
@click.argument("host")
@click.argument("nic")
@click.argument("change", metavar="up|down|RATE")
@pass_options
def nic(options: Options, name: str, host: str, nic: str, change: str) -> None:
    """Take NIC of HOST down or up, or give it a RATE in both directions (`100Mbit`, `unshaped`).

    To a move that comes from another host, a NIC that is down is a wire on which nothing is answered.
    """
    rate = None if change in {"up", "down"} else _rate(change)
    asyncio.run(_change(name, host, nic, rate, up=change == "up"))
    said = f"is {change}" if rate is None else f"has {format_rate(rate) if rate else 'no limit'} in both directions"
    done = NicChange(lab=name, host=host, nic=nic, link=None if rate is not None else change, rate=rate)
    Printer(options).item(done, nic, lambda: f"{nic} of {host} {said}.")


async def _change(name: str, host: str, nic: str, rate: int | None, *, up: bool) -> None:
    lab = await Lab.attach(name)
    try:
        found = lab.host(host)
        _require_nic(lab, found, nic)
        if rate is not None:
            await found.set_rate(nic, rate)
        elif up:
            await found.nic_up(nic)
        else:
            await found.nic_down(nic)
    finally:
        await lab.close()


def _require_nic(lab: Lab, host: LabHost, nic: str) -> None:
    """:raise NotFound: the host has no such migration NIC; others are the lab's own, without which it does not work."""
    has = [f"mig{number}" for number in range(len(lab.spec.nics))] if host.name != WORLD else []
    if nic not in has:
        raise NotFound(f"{host.name} has no migration NIC {nic}", hint=f"it has {', '.join(has) or 'none'}")


def _rate(text: str) -> int:
    if text == UNSHAPED:
        return 0
    try:
        return parse_rate(text)
    except ValueError as error:
        raise InvalidInput(f"neither `up` nor `down` nor a rate: {error}", hint="say `100Mbit`, say") from error
