"""Checks on a real lab: each thing is broken for real, and the check must find it, alone, and let go once it is mended.

The VM is off: what is looked at are networks and files. The rest: test_checks_of_vms.py, test_checks_of_hosts.py.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from kvmove.errors import CheckFailed
from kvmove.lab.lab import Lab
from kvmove.lab.lab_host import LabHost
from kvmove.lab.spec import LabSpec
from kvmove.model.finding import Acceptable, Severity
from kvmove.model.move import MoveRequest
from kvmove.model.vm import BootDefinition, DiskDefinition, NicDefinition, VmDefinition
from kvmove.pki.authority import issue
from kvmove.pki.identity import Identity, Role
from kvmove.units import MIB
from tests.support.labs import SMALL, lab_name, tidy_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

REQUEST = MoveRequest(vm="checked", host="h2")


def definition(kernel: Path) -> VmDefinition:
    return VmDefinition(
        name="checked",
        uuid=UUID(int=0xC4EC),
        memory=128 * MIB,
        disks=(DiskDefinition(name="root", datastore="local", size=16 * MIB),),
        nics=(NicDefinition(name="lan", bridge="br0", mac="52:54:00:92:00:70"),),
        boot=BootDefinition(kernel=str(kernel)),
    )


ASKED_FOR: dict[str, dict[str, Any]] = {
    "datastore-missing": {"datastore": "nowhere"},
    "disk-unknown": {"disks": {"other": "local"}},
    "nic-unknown": {"nics": ("mig7",)},
    "not-encrypted": {"encrypt": False},
    "nothing-to-move": {"host": "h1"},
    "storage-network-missing": {"via": "storage"},
    "source-differs": {"from_host": "h2"},
    "kind-differs": {"only_kind": "host"},
}
"""What is wrong with a move by what is asked for."""


async def codes(lab: Lab, **asked: Any) -> list[str]:
    """What a check finds now."""
    request = MoveRequest.model_validate(REQUEST.model_dump() | asked)
    try:
        return [it.code for it in (await lab.manager.check_move(request)).findings]
    except CheckFailed as error:
        return [str(it["code"]) for it in error.checks]


@asynccontextmanager
async def checked_lab(folder: Path) -> AsyncIterator[Lab]:
    folder.joinpath("boot").mkdir()
    kernel = folder / "boot" / "vmlinuz"
    kernel.write_bytes(b"no kernel, but a file")
    spec = LabSpec(name=lab_name("check"), nics=(0, 0), datastore=SMALL)
    async with tidy_lab(spec) as lab:
        await lab.manager.define_vm("h1", definition(kernel))
        yield lab


async def shell(host: LabHost, line: str) -> None:
    await host.exec(["sh", "-c", line])


async def test_what_is_broken_between_two_hosts_is_found_and_what_is_mended_is_not(tmp_path: Path) -> None:
    async with checked_lab(tmp_path) as lab:
        h1, h2 = lab.hosts
        assert await codes(lab) == []
        for code, asked in ASKED_FOR.items():
            assert await codes(lab, **asked) == [code], asked
        for broken, mended, expected in (
            ("ip link set uplink0 nomaster", "ip link set uplink0 master br0", "bridge-apart"),
            ("ip link set br0 down", "ip link set br0 up", "bridge-apart"),
            ("ip link set mig0 mtu 1400", "ip link set mig0 mtu 1500", "mtu-differs"),
            ("ip route add blackhole 10.91.1.11", "ip route del blackhole 10.91.1.11", "nic-pair-unreachable"),
            (f"mount -t tmpfs none {tmp_path}/boot", f"umount {tmp_path}/boot", "boot-file-missing"),
        ):
            await shell(h2, broken)
            assert await codes(lab) == [expected], broken
            await shell(h2, mended)
        await shell(h2, "ip link set br0 down")
        accepted = await lab.manager.check_move(REQUEST.model_copy(update={"accept": (Acceptable.BRIDGE_APART,)}))
        assert [(it.code, it.severity) for it in accepted.findings] == [("bridge-apart", Severity.WARNING)]
        await shell(h2, "ip link set br0 up")
        for nic in (0, 1):
            await shell(h2, f"ip route add blackhole 10.91.{nic}.11")
        assert await codes(lab) == ["data-port-unreachable"]
        for nic in (0, 1):
            await shell(h2, f"ip route del blackhole 10.91.{nic}.11")
        await shell(h1, "ip link set br0 down")  # nothing can be sent, so nothing is known
        assert await codes(lab) == ["probe-failed"]
        await shell(h1, "ip link set br0 up")
        for host in (h1, h2):
            await shell(host, "ip link set mig0 mtu 9000")  # the switch between them takes 1500
        assert await codes(lab) == ["mtu-too-large"]
        for host in (h1, h2):
            await shell(host, "ip link set mig0 mtu 1500")
        assert await codes(lab) == []
        issue(lab.folders.authority, Identity(Role.AGENT, "h2"), lab.folders.pki("h2"), valid_for=timedelta(days=3))
        assert await codes(lab) == ["certificate-expiring"]


@pytest.mark.full
async def test_the_network_is_told_as_it_is_and_a_routed_one_is_used(tmp_path: Path) -> None:
    """Both NICs of h2 get another prefix: no pair is in a common network any more, and all reach each other."""
    async with checked_lab(tmp_path) as lab:
        h2 = lab.host("h2")
        report = await lab.manager.check_network("h1", "h2")
        near = [it for it in report.pairs if it.network]
        assert [(it.near, it.far, it.network, it.reachable, it.whole, it.near_mtu) for it in near] == [
            ("mig0", "mig0", "10.91.0.0/24", True, True, 1500),
            ("mig1", "mig1", "10.91.1.0/24", True, True, 1500),
        ]
        assert all(it.round_trip_ms is not None and it.round_trip_ms > 0 for it in near)
        assert [(it.bridge, it.connected) for it in report.bridges] == [("br0", True)]
        for nic in (0, 1):
            old, new = f"10.91.{nic}.12/24", f"10.91.{nic}.12/25"
            await shell(h2, f"ip address add {new} dev mig{nic} && ip address del {old} dev mig{nic}")
        checked = await lab.manager.check_move(REQUEST)
        assert ("10.91.0.11", "10.91.0.12") in {
            (it.source_address, it.destination_address) for it in checked.plan.routes
        }
        for nic in (0, 1):
            await shell(h2, f"ip route add blackhole 10.91.{nic}.11")
        assert await codes(lab) == ["nics-apart"]
