"""`kvmove host`: what hosts there are and how they are."""

import click
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from kvmove.cli.host_joining import add_host, remove_host
from kvmove.cli.maintenance import maintenance
from kvmove.cli.network import render_network
from kvmove.cli.options import Group, Options, pass_options
from kvmove.cli.output import Cells, Printer, facts, table
from kvmove.cli.param_types import HOST
from kvmove.cli.rows import HOSTS, datastore_kind, host_words, link_speed
from kvmove.cli.session import ask
from kvmove.model.host import HostInfo, HostStatus
from kvmove.model.load import HostLoad
from kvmove.units import format_size


@click.group(cls=Group)
def host() -> None:
    """The hosts that the manager knows, as their agents report them."""


host.add_command(add_host)
host.add_command(remove_host)


@host.command("list")
@pass_options
def list_hosts(options: Options) -> None:
    """List the hosts, and why one does not answer."""
    Printer(options).items(ask(options, lambda manager: manager.hosts()), HOSTS)


@host.command("show")
@click.argument("name", type=HOST)
@pass_options
def show_host(options: Options, name: str) -> None:
    """Show one host: memory, migration NICs, datastores."""
    found = ask(options, lambda manager: manager.host(name))
    Printer(options).item(found, found.name, lambda: _details(found))


@host.command("check-network")
@click.argument("source", metavar="A")
@click.argument("destination", metavar="B")
@pass_options
def check_network(options: Options, source: str, destination: str) -> None:
    """Show what reaches what from host A to host B: each pair of migration NICs, and the bridges of VMs.

    The data port of B is tried from each NIC of A, and a frame is sent on each bridge. Nothing is changed.
    """
    found = ask(options, lambda manager: manager.check_network(source, destination))
    Printer(options).item(found, f"{found.source} {found.destination}", lambda: render_network(found))


host.add_command(maintenance)


def _details(host: HostStatus) -> RenderableType:
    info = host.info
    head: dict[str, str | Text] = {"Name": host.name, "State": host_words(host), "Control": host.control}
    if host.maintenance is not None:
        head["Remains"] = "; ".join(f"{it.vm}: {it.why}" for it in host.maintenance.remains)
    return Stack(facts({**head, **_figures(info)}), *_tables(info)) if info else facts(head)


def _figures(info: HostInfo) -> Cells:
    return {
        "Data port": str(info.data_port),
        "Memory": f"{format_size(info.memory_free)} free of {format_size(info.memory_total)}",
        "Load": _load(info.load) if info.load else "",
        "Accelerator": info.accelerator,
        "QEMU": info.qemu_version,
        "kvmove": info.version,
        "Bridges": ", ".join(info.bridges),
    }


def _load(load: HostLoad) -> str:
    busy = f"CPU {100 * load.cpu_used:.0f} % of {load.cpus}, memory {100 * load.memory_used / load.memory_total:.0f} %"
    waits = {"CPU": load.cpu_pressure, "memory": load.memory_pressure, "I/O": load.io_pressure}
    told = ", ".join(f"{name} {100 * share:.0f} %" for name, share in waits.items() if share >= 0.01)
    return f"{busy}; time that tasks wait for: {told}" if told else busy


def _tables(info: HostInfo) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if info.nics:
        nics = [
            {"migration NIC": nic.name, "address": nic.address, "speed": link_speed(nic.speed)} for nic in info.nics
        ]
        parts += ["", table(nics)]
    if info.datastores:
        stores = [
            {
                "datastore": it.name,
                "free": format_size(it.free),
                "size": format_size(it.size),
                "on": datastore_kind(it),
                "path": it.path,
            }
            for it in info.datastores
        ]
        parts += ["", table(stores)]
    return parts
