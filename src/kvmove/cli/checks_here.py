"""`kvmove doctor` on this machine: its QEMU, its certificates, and what agent.toml and manager.toml name.

Reads, and changes nothing but what the agent keeps too: whether a guest made progress with KVM.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from kvmove.agent.config import AgentConfig, DatastoreConfig, load_config
from kvmove.agent.host_facts import qemu_version
from kvmove.cli import check_rules as rules
from kvmove.cli.check_rules import FAIL, OK
from kvmove.disk.datastore import Datastore
from kvmove.errors import KvmoveError
from kvmove.manager.config import load_config as load_manager
from kvmove.model.check import Check
from kvmove.pki.contexts import client_context
from kvmove.pki.validity import first_end
from kvmove.qemu.accelerator import cpu_can_virtualize, find_accelerator

HERE = "this machine"
_PROGRAMS = ("qemu-img", "qemu-storage-daemon", "ip")
_DEVICES = Path("/sys/class/net")
_COMMAND_SECONDS = 10.0


def host_checks(agent_file: Path) -> Iterator[Check]:
    """What a machine that is a host needs; its agent's configuration is in `agent_file`."""
    yield from _guarded("QEMU", lambda: rules.qemu(HERE, qemu_version()), "apt-get install qemu-system-x86")
    for program in _PROGRAMS:
        if shutil.which(program) is None:
            yield Check(
                about=HERE, name=program, state=FAIL, said="is not installed",
                remedy="apt-get install qemu-utils qemu-system-common iproute2",
            )  # fmt: skip
    try:
        config = load_config(agent_file)
    except KvmoveError as error:
        yield Check(about=HERE, name=agent_file.name, state=FAIL, said=error.detail, remedy=error.hint)
        return
    yield Check(about=HERE, name=agent_file.name, state=OK, said=f"host {config.name}")
    yield rules.accelerator(
        HERE, cpu_can_virtualize(Path("/proc/cpuinfo").read_text()), Path("/dev/kvm").exists(),
        find_accelerator(config.state / "accelerator"),
    )  # fmt: skip
    yield from certificates("agent", config.pki)
    yield from _nics(config)
    for store in config.datastores:
        remedy = f"is {store.path} mounted? A new one is made with kvmove datastore create"
        yield from _guarded(f"datastore {store.name}", partial(_datastore, store), remedy)


def manager_checks(manager_file: Path) -> Iterator[Check]:
    """What a machine with a manager needs; its configuration is in `manager_file`."""
    try:
        config = load_manager(manager_file)
    except KvmoveError as error:
        yield Check(about=HERE, name=manager_file.name, state=FAIL, said=error.detail, remedy=error.hint)
        return
    yield Check(about=HERE, name=manager_file.name, state=OK, said=f"{len(config.hosts)} hosts")
    yield from certificates("manager", config.pki)


def certificates(whose: str, folder: Path) -> Iterator[Check]:
    """Whether the party's files fit together and how long they are good for."""

    def look() -> Check:
        client_context(folder)
        return rules.certificate(f"{HERE}, {whose}", first_end(folder), datetime.now(UTC))

    yield from _guarded(f"certificate of the {whose}", look, f"kvmove pki issue ... --into {folder}")


def _datastore(configured: DatastoreConfig) -> Check:
    store = Datastore.open(configured.name, configured.path, configured.devices)
    return rules.datastore(HERE, store.info())


def _nics(config: AgentConfig) -> Iterator[Check]:
    try:
        done = subprocess.run(
            ["ip", "-json", "address", "show"], capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=True
        )
        links = {link["ifname"]: link for link in json.loads(done.stdout)}
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        yield Check(about=HERE, name="migration NICs", state=FAIL, said=str(error), remedy="apt-get install iproute2")
        return
    for nic in config.nics:
        link = links.get(nic.name, {})
        addresses = [it["local"] for it in link.get("addr_info", ()) if it.get("family") == "inet"]
        yield rules.nic(nic.name, "UP" in link.get("flags", ()), next(iter(addresses), None), link.get("mtu", 0))


def _guarded(name: str, look: Callable[[], Check], remedy: str) -> Iterator[Check]:
    """The check, or the error that it ended with as a failure."""
    try:
        yield look()
    except KvmoveError as error:
        yield Check(about=HERE, name=name, state=FAIL, said=error.detail, remedy=error.hint or remedy)
