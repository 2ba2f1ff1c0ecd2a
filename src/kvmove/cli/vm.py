"""`kvmove vm`: what VMs there are, and their life apart from moving."""

import sys
from pathlib import Path
from uuid import UUID, uuid4

import click
from rich.console import Group as Stack
from rich.console import RenderableType

from kvmove.cli.options import Form, Group, Options, pass_options
from kvmove.cli.output import Printer, facts, table
from kvmove.cli.param_types import HOST, VM
from kvmove.cli.rows import VMS, vm_state
from kvmove.cli.session import ask
from kvmove.client.manager import ManagerClient
from kvmove.model.host import HostInfo
from kvmove.model.toml_file import fit, parse_toml, read_text
from kvmove.model.vm import DiskDefinition, VmDefinition, VmStatus
from kvmove.units import format_size


@click.group(cls=Group)
def vm() -> None:
    """Virtual machines. NAME is a name, a UUID, or the beginning of either when only one begins so."""


@vm.command("list")
@pass_options
def list_vms(options: Options) -> None:
    """List the VMs of all hosts."""
    Printer(options).items(ask(options, lambda manager: manager.vms()), VMS)


@vm.command("show")
@click.argument("name", type=VM)
@pass_options
def show_vm(options: Options, name: str) -> None:
    """Show one VM: where it is, its disks (and their files) and network cards."""
    found, host = ask(options, lambda manager: _with_host(manager, name, options))
    Printer(options).item(found, found.definition.name, lambda: _details(found, host))


@vm.command("define")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--host", required=True, type=HOST, help="The host that gets it.")
@pass_options
def define_vm(options: Options, file: Path, host: str) -> None:
    """Make a VM from the definition in FILE (TOML; - is stdin) with new, empty disks. It is off at first.

    A file without a uuid gets a new one.
    """
    definition = _read(file)
    _print(options, ask(options, lambda manager: manager.define_vm(host, definition)))


@vm.command("start")
@click.argument("name", type=VM)
@pass_options
def start_vm(options: Options, name: str) -> None:
    """Start a VM that is off."""
    _print(options, ask(options, lambda manager: manager.start_vm(name)))


@vm.command("stop")
@click.argument("name", type=VM)
@click.option("--force", is_flag=True, help="End it now, as if the power went: writes in flight are lost.")
@pass_options
def stop_vm(options: Options, name: str, force: bool) -> None:
    """Ask a VM to shut down."""
    found = ask(options, lambda manager: manager.kill_vm(name) if force else manager.stop_vm(name))
    _print(options, found)


@vm.command("pause")
@click.argument("name", type=VM)
@pass_options
def pause_vm(options: Options, name: str) -> None:
    """Let a VM stand still; its memory is kept, and it can be moved as it is."""
    _print(options, ask(options, lambda manager: manager.pause_vm(name)))


@vm.command("resume")
@click.argument("name", type=VM)
@pass_options
def resume_vm(options: Options, name: str) -> None:
    """Let a paused VM go on."""
    _print(options, ask(options, lambda manager: manager.resume_vm(name)))


@vm.command("delete")
@click.argument("name", type=VM)
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_options
def delete_vm(options: Options, name: str, yes: bool) -> None:
    """Delete a VM that is off, with its disks. NAME is the whole name or UUID; the beginning does not do."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("deleting a VM deletes its disks; add --yes")
        click.confirm(f"Delete {name} and all its disks?", abort=True, err=True)
    ask(options, lambda manager: manager.delete_vm(name))
    Printer(options).note(f"{name} is deleted.")


async def _with_host(manager: ManagerClient, name: str, options: Options) -> tuple[VmStatus, HostInfo | None]:
    """The VM, and for the table the host that it is on: that knows where its datastores are."""
    found = await manager.vm(name)
    return found, (await manager.host(found.host)).info if options.output is Form.TABLE else None


def _print(options: Options, found: VmStatus) -> None:
    Printer(options).item(found, found.definition.name, lambda: _details(found, None))


def disk_file(host: HostInfo | None, vm: UUID, disk: DiskDefinition) -> str:
    """Where a disk's file is on its host (the layout of `disk.datastore`), or the claim that names its device; empty
    when the host has not told."""
    store = next((it for it in host.datastores if it.name == disk.datastore), None) if host else None
    if store is None:
        return ""
    return f"{store.path}/{vm}/{disk.name}.{disk.format if store.devices is None else 'device'}"


def swap_words(definition: VmDefinition) -> str:
    """Where a VM has its swap file."""
    store = definition.swap_datastore
    return f"{definition.swap}, in datastore {store}" if store else "none"


def _details(found: VmStatus, host: HostInfo | None) -> RenderableType:
    definition = found.definition
    head = facts(
        {
            "Name": definition.name,
            "UUID": str(definition.uuid),
            "State": vm_state(found),
            "Host": found.host,
            "Epoch": str(found.epoch),
            "Move": found.move_id or "",
            "vCPUs": str(definition.vcpus),
            "Memory": format_size(definition.memory),
            "Swap file": swap_words(definition),
            "Guest agent": "yes" if definition.guest_agent else "no",
            "Accelerator": found.accelerator or definition.accelerator,
            "QEMU's pid": str(found.pid or ""),
            "Boots": f"kernel {definition.boot.kernel}" if definition.boot else "from its first disk",
        }
    )
    parts: list[RenderableType] = [head]
    if definition.disks:
        disks = [
            {
                "disk": disk.name,
                "size": format_size(disk.size),
                "datastore": disk.datastore,
                "image": f"{disk.provisioning} {disk.format}",
                "cache": disk.cache,
            }
            | ({"file": disk_file(host, definition.uuid, disk)} if host else {})
            for disk in definition.disks
        ]
        parts += ["", table(disks)]
    if definition.nics:
        nics = [{"nic": nic.name, "bridge": nic.bridge, "mac": nic.mac} for nic in definition.nics]
        parts += ["", table(nics)]
    return Stack(*parts)


def _read(file: Path) -> VmDefinition:
    name = "the definition" if str(file) == "-" else str(file)
    raw = parse_toml(sys.stdin.read() if str(file) == "-" else read_text(file), name)
    raw.setdefault("uuid", str(uuid4()))
    return fit(raw, VmDefinition, name)
