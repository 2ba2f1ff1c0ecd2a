"""The command line: the same machine on every host, and no name that adds an option."""

import json
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.model.vm import BootDefinition, DiskDefinition, NicDefinition, Provisioning, VmDefinition
from kvmove.qemu.accelerator import Accelerator
from kvmove.qemu.command_line import (
    VmPaths,
    VmResources,
    belongs_to,
    command_line,
    guest_memory,
)
from kvmove.units import KIB, MIB

UUID_1 = UUID("11111111-1111-4111-8111-111111111111")


def vm(disks: int = 1, nics: int = 1, boot: BootDefinition | None = None) -> VmDefinition:
    return VmDefinition(
        name="web",
        uuid=UUID_1,
        memory=256 * MIB,
        vcpus=2,
        disks=tuple(DiskDefinition(name=f"disk-{n}", datastore="ds", size=MIB) for n in range(disks)),
        nics=tuple(NicDefinition(name=f"nic-{n}", bridge="br", mac=f"52:54:00:00:00:{n:02x}") for n in range(nics)),
        boot=boot,
    )


def resources(definition: VmDefinition, folder: str = "/data") -> VmResources:
    return VmResources(
        {disk.name: Path(folder, f"{disk.name}.raw") for disk in definition.disks},
        {nic.name: f"kv{index}" for index, nic in enumerate(definition.nics)},
    )


def paths(folder: str = "/run/vm") -> VmPaths:
    return VmPaths(Path(folder), Path(folder, "log"))


def values(arguments: list[str], option: str) -> list[str]:
    return [arguments[i + 1] for i, argument in enumerate(arguments) if argument == option]


def nodes(arguments: list[str]) -> list[dict[str, object]]:
    return [json.loads(value) for value in values(arguments, "-blockdev")]


def devices(arguments: list[str]) -> list[dict[str, object]]:
    return [json.loads(value) for value in values(arguments, "-device")]


def test_a_guest_never_runs_by_the_start_of_its_qemu_alone() -> None:
    arguments = command_line(vm(), "tcg", paths(), resources(vm()))
    assert "-S" in arguments
    assert "-no-shutdown" in arguments


def test_a_destination_differs_by_waiting_for_memory_alone() -> None:
    definition = vm(2, 2)
    source = command_line(definition, "tcg", paths(), resources(definition))
    destination = command_line(definition, "tcg", paths(), resources(definition), incoming=True)
    assert destination == [*source, "-incoming", "defer"]


def test_other_paths_and_interfaces_give_the_same_devices() -> None:
    definition = vm(2, 2)
    here = command_line(definition, "tcg", paths(), resources(definition))
    there = command_line(definition, "tcg", paths("/elsewhere"), resources(definition, "/other"))
    for option in ("-device", "-machine", "-cpu", "-m", "-smp", "-uuid", "-accel"):
        assert values(here, option) == values(there, option)


def test_the_machine_is_pinned_and_has_nothing_by_default() -> None:
    arguments = command_line(vm(), "kvm", paths(), resources(vm()))
    assert values(arguments, "-machine") == ["pc-q35-7.2,dump-guest-core=off"]
    assert values(arguments, "-accel") == ["kvm"]
    assert {"-nodefaults", "-no-user-config"} <= set(arguments)
    (sandbox,) = values(arguments, "-sandbox")
    assert {"obsolete=deny", "elevateprivileges=deny", "spawn=deny", "resourcecontrol=deny"} <= set(sandbox.split(","))


def test_devices_keep_their_addresses_when_others_are_there() -> None:
    few, many = vm(1, 1), vm(16, 8)
    first = {str(d["id"]): d["addr"] for d in devices(command_line(few, "tcg", paths(), resources(few)))}
    all_of_them = {str(d["id"]): d["addr"] for d in devices(command_line(many, "tcg", paths(), resources(many)))}
    assert first.items() <= all_of_them.items()
    assert len(set(all_of_them.values())) == 24


def test_a_disk_is_a_raw_node_over_a_file_node_with_explicit_formats() -> None:
    file, image = nodes(command_line(vm(), "tcg", paths(), resources(vm())))
    assert file == {
        "driver": "file",
        "node-name": "disk0-file",
        "filename": "/data/disk-0.raw",
        "cache": {"direct": True, "no-flush": False},
        "discard": "unmap",
        "drop-cache": False,
    }
    assert (image["driver"], image["node-name"], image["file"]) == ("raw", "disk0", "disk0-file")


def test_a_disk_on_a_device_is_the_beginning_of_it() -> None:
    on_device = resources(vm())._replace(devices=frozenset({"disk-0"}))
    file, image = nodes(command_line(vm(), "tcg", paths(), on_device))
    assert (file["driver"], image["driver"], image["size"]) == ("host_device", "raw", MIB)


def test_a_guest_cannot_give_back_the_space_of_a_thick_disk() -> None:
    disk = DiskDefinition(name="disk-0", datastore="ds", size=MIB, provisioning=Provisioning.THICK)
    definition = vm().model_copy(update={"disks": (disk,)})
    file, image = nodes(command_line(definition, "tcg", paths(), resources(definition)))
    assert (file["discard"], image["discard"]) == ("ignore", "ignore")
    assert "size" not in image


def test_writeback_goes_through_the_page_cache() -> None:
    disk = DiskDefinition(name="disk-0", datastore="ds", size=MIB, cache="writeback")
    definition = vm().model_copy(update={"disks": (disk,)})
    file, image = nodes(command_line(definition, "tcg", paths(), resources(definition)))
    assert file["cache"] == image["cache"] == {"direct": False, "no-flush": False}


def test_the_first_disk_boots_unless_a_kernel_is_named() -> None:
    booted = devices(command_line(vm(2), "tcg", paths(), resources(vm(2))))
    assert [device.get("bootindex") for device in booted] == [0, None, None]
    boot = BootDefinition(kernel="/k", initrd="/i", command_line="console=ttyS0 quiet")
    arguments = command_line(vm(boot=boot), "tcg", paths(), resources(vm()))
    assert (values(arguments, "-kernel"), values(arguments, "-initrd")) == (["/k"], ["/i"])
    assert values(arguments, "-append") == ["console=ttyS0 quiet"]
    assert all("bootindex" not in device for device in devices(arguments))


def test_a_nic_runs_no_script_and_has_no_boot_rom() -> None:
    arguments = command_line(vm(), "tcg", paths(), resources(vm()))
    assert values(arguments, "-netdev") == ["tap,id=net0,ifname=kv0,script=no,downscript=no"]
    assert devices(arguments)[1]["romfile"] == ""


@pytest.mark.parametrize(("kind", "size"), [("tcg", 262080 * KIB), ("kvm", 256 * MIB)])
def test_an_emulated_guest_gets_a_little_less_memory(kind: Accelerator, size: int) -> None:
    arguments = command_line(vm(), kind, paths(), resources(vm()))
    assert values(arguments, "-m") == [f"size={size // KIB}k"]
    assert guest_memory(vm(), kind) == size


def test_a_swap_file_changes_where_memory_lies_and_nothing_else() -> None:
    without = command_line(vm(), "tcg", paths(), resources(vm()))
    folder = Path("/data/with,comma")
    arguments = command_line(vm(), "tcg", paths(), resources(vm())._replace(swap=folder))
    (memory,) = values(arguments, "-object")
    assert json.loads(memory) == {
        "qom-type": "memory-backend-file",
        "id": "pc.ram",
        "mem-path": str(folder),
        "size": guest_memory(vm(), "tcg"),
        "share": True,
        "x-use-canonical-path-for-ramblock-id": False,
    }
    added = ["-object", memory, "-machine", "memory-backend=pc.ram"]
    assert [word for word in arguments if word not in added] == [word for word in without if word not in added]
    assert values(arguments, "-machine") == ["pc-q35-7.2,dump-guest-core=off", "memory-backend=pc.ram"]


def test_an_agents_port_collides_with_no_device_and_changes_none() -> None:
    many = vm(16, 8)
    without = command_line(many, "tcg", paths(), resources(many))
    with_agent = many.model_copy(update={"guest_agent": True})
    arguments = command_line(with_agent, "tcg", paths(), resources(many))
    assert arguments[: len(without)] == without
    bus, port = devices(arguments)[-2:]
    addresses = [device["addr"] for device in devices(arguments) if "addr" in device]
    assert len(set(addresses)) == len(addresses) == 25
    assert int(str(bus["addr"]), 16) < 0x1F, "where q35 has its own devices"
    assert (port["bus"], port["name"], port["chardev"]) == ("serial.0", "org.qemu.guest_agent.0", "agent")
    assert values(arguments, "-chardev")[-1] == "socket,id=agent,path=/run/vm/agent.sock,server=on,wait=off"


@given(st.text(alphabet=st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1))
def test_no_folder_name_can_add_an_option(name: str) -> None:
    arguments = command_line(vm(0, 0), "tcg", paths(f"/run/{name}"), VmResources({}, {}))
    for value in values(arguments, "-chardev"):
        undoubled = value.replace(",,", "\0")
        assert [part.split("=")[0] for part in undoubled.split(",")][1:3] == ["id", "path"]
        assert len(undoubled.split(",")) <= 5


def test_a_missing_file_or_tap_is_an_error_not_a_default() -> None:
    with pytest.raises(KeyError):
        command_line(vm(), "tcg", paths(), VmResources({}, {"nic-0": "kv0"}))


def test_a_process_is_ours_by_uuid_and_pidfile_together() -> None:
    arguments = command_line(vm(), "tcg", paths(), resources(vm()))
    assert belongs_to(arguments, UUID_1, paths())
    assert not belongs_to(arguments, UUID_1, paths("/run/other"))
    assert not belongs_to(arguments, UUID("22222222-2222-4222-8222-222222222222"), paths())
    assert not belongs_to(["vi", str(paths().pidfile), str(UUID_1)], UUID_1, paths())
