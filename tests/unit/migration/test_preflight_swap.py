"""What a VM's swap file needs where the VM goes."""

import re
from typing import Any

import pytest

from kvmove.migration.plan import check
from kvmove.model.finding import Finding, Severity
from kvmove.model.move import MoveRequest
from kvmove.model.ownership import Ownership
from kvmove.model.vm import VmDefinition
from kvmove.units import GIB, MIB
from tests.support.nouns import VM, host_status, vm_definition, vm_status

DISKS, MEMORY = 3 * GIB, 512 * MIB


def findings(swap: str, host: str | None = "h2", free: int = 50 * GIB, **request: Any) -> list[Finding]:
    """Of a move of `web` with that swap; `free` bytes are free in h2's `local`."""
    definition = VmDefinition.model_validate(vm_definition().model_dump() | {"swap": swap})
    source, destination = host_status(1), host_status(2)
    assert destination.info is not None
    local, fast = destination.info.datastores
    info = destination.info.model_copy(update={"datastores": (local.model_copy(update={"free": free}), fast)})
    return check(
        MoveRequest.model_validate({"vm": "web", "host": host, **request}),
        vm_status().model_copy(update={"definition": definition}),
        {"h1": source, "h2": destination.model_copy(update={"info": info})},
        Ownership(vm=VM, owner="h1", epoch=3),
    )


def words(found: list[Finding], severity: Severity) -> list[str]:
    return [it.what for it in found if it.severity is severity]


@pytest.mark.parametrize("swap", ["none", "with-vm", "host:local", "host:fast"])
def test_a_swap_file_that_has_its_place_is_no_finding(swap: str) -> None:
    assert findings(swap) == []


def test_a_datastore_that_the_destination_has_not_blocks() -> None:
    (found,) = findings("host:ssd")
    assert found.severity is Severity.BLOCKER
    assert found.what == "h2 has no datastore ssd, where the swap file of web is to be"
    assert "agent.toml" in found.remedy


def test_a_datastore_of_block_devices_has_no_place_for_it() -> None:
    definition = VmDefinition.model_validate(vm_definition().model_dump() | {"swap": "host:fast"})
    destination = host_status(2)
    assert destination.info is not None
    local, fast = destination.info.datastores
    info = destination.info.model_copy(update={"datastores": (local, fast.model_copy(update={"devices": (GIB,)}))})
    found = check(
        MoveRequest.model_validate({"vm": "web", "host": "h2"}),
        vm_status().model_copy(update={"definition": definition}),
        {"h1": host_status(1), "h2": destination.model_copy(update={"info": info})},
        Ownership(vm=VM, owner="h1", epoch=3),
    )
    assert ["no place for the swap file" in it.what for it in found] == [True]


@pytest.mark.parametrize(
    ("swap", "request_", "free", "needed"),
    [
        ("host:local", {"datastore": "fast"}, MEMORY, "the swap file of web needs 512.0 MiB"),
        ("host:local", {}, DISKS + MEMORY, "the swap file of web and the disks that come need 3.5 GiB"),
        ("with-vm", {}, DISKS + MEMORY, "the swap file of web and the disks that come need 3.5 GiB"),
    ],
)
def test_it_needs_room_besides_the_disks_that_come(swap: str, request_: dict[str, Any], free: int, needed: str) -> None:
    assert words(findings(swap, free=free, **request_), Severity.BLOCKER) == []
    (found,) = [it for it in findings(swap, free=free - 1, **request_) if it.severity is Severity.BLOCKER]
    assert found.what.endswith(needed)
    assert re.match("free 1 B there", found.remedy)


def test_with_the_vm_it_goes_where_the_first_disk_goes() -> None:
    first, second = {"root": "fast"}, {"data": "fast"}
    assert words(findings("with-vm", free=2 * GIB, disks=first), Severity.BLOCKER) == []
    (blocked,) = words(findings("with-vm", free=1 * GIB, disks=second), Severity.BLOCKER)
    assert blocked.startswith("datastore local on h2 has 1.0 GiB free")


def test_disks_that_do_not_fit_are_said_once() -> None:
    assert len(words(findings("with-vm", free=DISKS - 1), Severity.BLOCKER)) == 1


def test_a_missing_datastore_of_disk_and_swap_file_is_said_once() -> None:
    assert words(findings("with-vm", datastore="ssd"), Severity.BLOCKER) == ["h2 has no datastore ssd"]


def test_in_a_storage_move_the_file_stays_and_that_is_said() -> None:
    (found,) = findings("with-vm", host=None, datastore="fast")
    assert found.severity is Severity.WARNING
    assert found.what.startswith("the swap file of web stays in datastore local until the VM is started anew")


@pytest.mark.parametrize("swap", ["none", "host:local", "host:ssd"])
def test_a_storage_move_does_not_concern_other_swap_files(swap: str) -> None:
    assert findings(swap, host=None, datastore="fast") == []
