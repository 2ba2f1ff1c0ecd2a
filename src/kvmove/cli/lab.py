"""`kvmove lab`: hosts in namespaces of this one machine, to try things out, and the runs that measure.

The lab stays until `lab down`; the runs build labs of their own and leave nothing.
"""

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from rich.console import Group as Stack
from rich.console import RenderableType

from kvmove.cli.contexts import forget_context, use_context
from kvmove.cli.lab_bench import bench
from kvmove.cli.lab_downtime import downtime
from kvmove.cli.lab_forecast import forecast
from kvmove.cli.lab_matrix import matrix
from kvmove.cli.lab_nic import nic
from kvmove.cli.lab_page import page
from kvmove.cli.lab_runs import compare, demo, soak
from kvmove.cli.lab_scale import scale
from kvmove.cli.options import Form, Group, Options, pass_options
from kvmove.cli.output import Printer, facts, table
from kvmove.cli.rows import link_speed
from kvmove.cli.settings import ContextEntry
from kvmove.errors import InvalidInput
from kvmove.lab import ledger_vm
from kvmove.lab.commands import in_host
from kvmove.lab.folders import LabFolders
from kvmove.lab.guest.image import build
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.spec import LOCAL, SHARED, DatastoreSpec, LabSpec
from kvmove.model.toml_file import explain
from kvmove.units import format_size, parse_rate, parse_size

GUEST_FOLDER = Path("/var/cache/kvmove/guest")
LAB_NAME = "lab"
UNSHAPED = "unshaped"


@click.group(cls=Group)
def lab() -> None:
    """A lab: hosts in namespaces of this machine, their agents, a manager and a guest. Needs root."""


lab.add_command(demo)
lab.add_command(soak)
lab.add_command(compare)
lab.add_command(bench)
lab.add_command(downtime)
lab.add_command(forecast)
lab.add_command(matrix)
lab.add_command(scale)
lab.add_command(nic)
lab.add_command(page)


@lab.command("up")
@click.option("--name", default=LAB_NAME, show_default=True, help="The lab's name; several may be up.")
@click.option("--hosts", type=click.IntRange(1, 16), default=2, show_default=True, help="How many hosts.")
@click.option("--nics", type=click.IntRange(1, 8), default=2, show_default=True, help="Migration NICs of each host.")
@click.option("--rate", "rates", multiple=True, help="Rate of each NIC, or of one after the other; or `unshaped`.")
@click.option("--rtt", type=click.IntRange(0, 1000), default=0, help="Round trip between hosts, in milliseconds.")
@click.option("--datastore-size", default="16GiB", show_default=True, help="Size of each host's datastore (sparse).")
@click.option("--shared", is_flag=True, help="One more datastore that all hosts see; the VM's disk lies there.")
@click.option("--block", type=click.IntRange(0, 16), default=0, help="A datastore of that many block devices each.")
@click.option("--no-guest", is_flag=True, help="Only the hosts; no VM.")
@click.option("--memory", default="512MiB", show_default=True, help="Memory of the VM `demo`.")
@click.option("--disk", default="1GiB", show_default=True, help="Disk of the VM `demo`.")
@click.option("--data", default="768MiB", show_default=True, help="How much of the disk holds data at first.")
@click.option("--guest-folder", type=click.Path(path_type=Path), default=GUEST_FOLDER, help="Where the guest is built.")
@pass_options
def up(
    options: Options,
    name: str,
    hosts: int,
    nics: int,
    rates: tuple[str, ...],
    rtt: int,
    datastore_size: str,
    shared: bool,
    block: int,
    no_guest: bool,
    memory: str,
    disk: str,
    data: str,
    guest_folder: Path,
) -> None:
    """Build a lab, start a guest that writes all the time, and make the other commands talk to the lab's manager."""
    spec = _spec(name, hosts, _rates(nics, rates), datastore_size)
    spec = spec.model_copy(update={"shared": shared, "block": block, "rtt_ms": rtt})
    vm = None if no_guest else _vm(memory, disk, data, SHARED if shared else LOCAL)
    printer = Printer(options)
    status = asyncio.run(_up(spec, vm, guest_folder, printer))
    _remember_context(name)
    _print_status(printer, name, status)
    if vm is not None and options.output is Form.TABLE:
        printer.note(_what_next(spec, vm))


@lab.command("status")
@click.option("--name", default=LAB_NAME, show_default=True)
@pass_options
def status(options: Options, name: str) -> None:
    """Show the lab's hosts, their services and QEMUs."""
    _print_status(Printer(options), name, asyncio.run(_status(name)))


@lab.command("exec", context_settings={"ignore_unknown_options": True})
@click.option("--name", default=LAB_NAME, show_default=True)
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, host: str, command: tuple[str, ...]) -> int:
    """Run COMMAND inside HOST (or `world`), as if logged in there; its exit code is this command's."""
    init = asyncio.run(_init_of(name, host))
    return subprocess.run(in_host(init, list(command)), check=False).returncode


@lab.command("down")
@click.option("--name", default=LAB_NAME, show_default=True)
@pass_options
def down(options: Options, name: str) -> None:
    """Take the lab down, with everything that ran in it; nothing of it stays."""
    folders = LabFolders(_spec(name, 2, (), "16GiB").name)
    back_to = _previous_context(folders)
    asyncio.run(Lab.down(name))
    forget_context(name, back_to)
    Printer(options).note(f"The lab {name} is gone.")


async def _up(spec: LabSpec, vm: LedgerVm | None, guest_folder: Path, printer: Printer) -> dict[str, Any]:
    image = await asyncio.to_thread(build, guest_folder) if vm else None
    printer.note(f"building {len(spec.hosts)} hosts")
    started = await Lab.up(spec)
    try:
        if vm and image:
            printer.note(f"starting the VM {vm.name} on {spec.hosts[0]}")
            await ledger_vm.define(started, vm, image, spec.hosts[0])
            await ledger_vm.start(started, vm)
        return await _described(started)
    except BaseException:
        await Lab.down(spec.name)
        raise
    finally:
        await started.close()


async def _status(name: str) -> dict[str, Any]:
    return await _described(await Lab.attach(name))


async def _described(found: Lab) -> dict[str, Any]:
    answer = await found.status()
    for host in found.hosts:
        answer["hosts"][host.name]["qemu"] = {str(vm): pid for vm, pid in host.qemu_pids().items()}
    return answer


async def _init_of(name: str, host: str) -> int:
    return (await Lab.attach(name)).host(host).init


def _remember_context(name: str) -> None:
    folders = LabFolders(name)
    before = use_context(name, ContextEntry(server=f"unix:{folders.manager_socket}"))
    (folders.run / "context-before").write_text(before or "")


def _previous_context(folders: LabFolders) -> str | None:
    file = folders.run / "context-before"
    return file.read_text() or None if file.exists() else None


def _spec(name: str, hosts: int, rates: tuple[int, ...], datastore_size: str) -> LabSpec:
    try:
        datastore = DatastoreSpec(size=parse_size(datastore_size))
        return LabSpec(name=name, hosts=tuple(f"h{n + 1}" for n in range(hosts)), nics=rates, datastore=datastore)
    except ValidationError as error:
        raise InvalidInput(f"such a lab cannot be: {explain(error)}") from error
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def _vm(memory: str, disk: str, data: str, datastore: str) -> LedgerVm:
    try:
        size = parse_size(disk)
        return LedgerVm(memory=parse_size(memory), disk=size, data=parse_size(data), datastore=datastore)
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def _rates(nics: int, rates: tuple[str, ...]) -> tuple[int, ...]:
    """One rate per NIC; the last one given serves for the rest."""
    given = [_rate(rate) for rate in rates] or [_rate("1Gbit")]
    if len(given) > nics:
        raise InvalidInput(f"{len(given)} rates for {nics} NICs", hint="give --rate at most once per NIC")
    return tuple(given + given[-1:] * (nics - len(given)))


def _rate(text: str) -> int:
    try:
        return 0 if text == UNSHAPED else parse_rate(text)
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def _print_status(printer: Printer, name: str, status: dict[str, Any]) -> None:
    if printer.options.output is Form.TABLE:
        printer.out.print(_render(name, status))
    elif printer.options.output is Form.NAME:
        printer.line(name)
    else:
        printer.json(status)


def _render(name: str, status: dict[str, Any]) -> RenderableType:
    spec = LabSpec.model_validate(status["spec"])
    rates = ", ".join(link_speed(rate) if rate else UNSHAPED for rate in spec.nics)
    known = {"Lab": name, "Migration NICs": rates, "Datastores": format_size(spec.datastore.size)}
    head = facts(known | ({"Round trip": f"{spec.rtt_ms} ms"} if spec.rtt_ms else {}))
    rows = [_row(host, found) for host, found in status["hosts"].items()]
    return Stack(head, "", table(rows))


def _row(name: str, host: dict[str, Any]) -> dict[str, str]:
    services = [
        f"{service}{'' if state['pid'] else ' (down)'}{_again(state['starts'])}"
        for service, state in host["services"].items()
    ]
    return {
        "host": name,
        "power": "on" if host["running"] else "off",
        "init": str(host["init"] or ""),
        "services": ", ".join(services),
        "QEMUs": str(len(host.get("qemu", {}))),
    }


def _again(starts: int) -> str:
    return f", started {starts} times" if starts > 1 else ""


def _what_next(spec: LabSpec, vm: LedgerVm) -> str:
    words = "lab" if spec.name == LAB_NAME else f"lab --name {spec.name}"
    return (
        f"\nTry:\n"
        f"  kvmove host list\n"
        f"  kvmove vm list\n"
        f"  kvmove move {vm.name} {spec.hosts[-1]} --verify\n"
        f"  kvmove {words.replace('lab', 'lab page', 1)}\n"
        f"  kvmove lab exec {spec.hosts[0]} -- ip -br address\n"
        f"  kvmove {words.replace('lab', 'lab down', 1)}"
    )
