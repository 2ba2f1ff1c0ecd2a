"""Tap devices and host facts in a network of their own: made, used by a real QEMU, found again, taken away.

The body of each test runs as a program inside fresh network and mount namespaces, so nothing of the machine is touched.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

PREPARE = """
import asyncio, json, subprocess, tempfile
from pathlib import Path
from uuid import uuid4
from kvmove.agent import taps
from kvmove.agent.config import NicConfig
from kvmove.agent.host_facts import bridges, migration_nics
from kvmove.agent.launcher import Launcher
from kvmove.errors import CheckFailed
from kvmove.model.vm import NicDefinition, VmDefinition
from kvmove.qemu import run_control

def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout

def devices():
    return {link["ifname"]: link for link in json.loads(ip("-json", "link", "show"))}

ip("link", "add", "br0", "type", "bridge")
ip("link", "set", "br0", "up")
lan, dmz = (NicDefinition(name=name, bridge="br0", mac=f"52:54:00:00:00:0{n}") for n, name in enumerate(("lan", "dmz")))
vm = VmDefinition(name="web", uuid=uuid4(), memory=64 << 20, nics=(lan, dmz))
before = set(devices())
"""


def inside(body: str) -> None:
    """Run `body` in a network of its own; its failure is the test's."""
    program = PREPARE + textwrap.dedent(body)
    start = 'mount -t sysfs sysfs /sys && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", start, sys.executable, program],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr


def test_taps_are_ports_of_their_bridges_and_go_without_a_trace() -> None:
    inside("""
        names = asyncio.run(taps.create_taps(vm))
        found = devices()
        assert set(names) == {"lan", "dmz"}
        for name in names.values():
            assert found[name]["master"] == "br0" and "UP" in found[name]["flags"]
        asyncio.run(taps.create_taps(vm))  # those of a QEMU that crashed are replaced
        assert set(devices()) == before | set(names.values())
        asyncio.run(taps.delete_taps(vm.uuid))
        asyncio.run(taps.delete_taps(vm.uuid))
        assert set(devices()) == before
    """)


def test_a_missing_bridge_leaves_no_tap_behind() -> None:
    inside("""
        nowhere = dmz.model_copy(update={"bridge": "br9"})
        try:
            asyncio.run(taps.create_taps(vm.model_copy(update={"nics": (lan, nowhere)})))
        except CheckFailed as error:
            assert "br9" in error.detail
        else:
            raise AssertionError("no refusal")
        assert set(devices()) == before
    """)


def test_qemu_takes_the_taps_and_clearing_the_vm_takes_them_away() -> None:
    inside("""
        async def run(folder):
            launcher = Launcher(folder / "run", folder / "state", {}, "tcg")
            instance = await launcher.launch(vm)
            assert all("LOWER_UP" in devices()[name]["flags"] for name in taps.tap_names(vm).values())
            await run_control.cont(instance.monitor)
            await run_control.announce_self(instance.monitor)
            await launcher.clear(vm.uuid, instance)
            assert set(devices()) == before
            assert not launcher.paths(vm.uuid).folder.exists()

        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(run(Path(folder)))
    """)


def test_facts_of_the_network_are_those_of_now() -> None:
    inside("""
        ip("link", "add", "mig0", "type", "veth", "peer", "name", "other")
        ip("address", "add", "10.10.0.1/24", "dev", "mig0")
        wanted = [NicConfig(name="mig0"), NicConfig(name="mig1")]
        assert migration_nics(wanted) == ()  # it is down
        ip("link", "set", "mig0", "up")
        ip("link", "set", "other", "up")
        (nic,) = migration_nics(wanted)
        assert (nic.name, nic.address) == ("mig0", "10.10.0.1/24") and nic.speed > 0
        assert bridges() == ("br0",)
    """)
