"""`kvmove lab page`: the web page of a lab's manager, for a browser on this machine."""

import asyncio
import secrets
import signal
from contextlib import suppress

import click

from kvmove.cli.options import Command, Options, pass_options
from kvmove.cli.output import Printer
from kvmove.lab.lab import Lab
from kvmove.lab.page_door import page_door
from kvmove.model.access import NewUser, UserRole
from kvmove.model.strict import Strict

LISTEN = "127.0.0.1:7440"


class Served(Strict):
    """Where the page is, and who may log in as long as it is."""

    address: str
    user: str
    token: str


@click.command(cls=Command)
@click.option("--name", default="lab", show_default=True, help="The lab's name.")
@click.option("--listen", default=LISTEN, show_default=True, metavar="HOST:PORT", help="Where the page is served.")
@pass_options
def page(options: Options, name: str, listen: str) -> None:
    """Serve the page of a lab's manager on this machine until Ctrl-C, for a user who is made for that."""
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(Printer(options), name, listen))


async def _serve(printer: Printer, name: str, listen: str) -> None:
    lab = await Lab.attach(name)
    try:
        with page_door(lab, listen) as address:
            user = await lab.manager.access.add_user(NewUser(name=f"page-{secrets.token_hex(3)}", role=UserRole.ADMIN))
            try:
                served = Served(address=address, user=user.name, token=user.token)
                printer.item(served, address, lambda: _said(served))
                await _stopped()
            finally:
                await lab.manager.access.remove_user(user.name)
    finally:
        await lab.close()


async def _stopped() -> None:
    """Until SIGTERM; SIGINT ends it as KeyboardInterrupt."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


def _said(served: Served) -> str:
    return (
        f"The page:   {served.address}\n"
        f"User name:  {served.user}\n"
        f"Token:      {served.token}\n"
        "The browser will warn of the certificate: the lab's own authority made it. Ctrl-C ends the page."
    )
