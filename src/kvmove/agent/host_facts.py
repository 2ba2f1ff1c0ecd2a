"""What this host is and has, as its agent reports it: addresses, speeds, memory, datastores, QEMU, bridges.

Everything is read anew for each report, but for what cannot change while the agent runs (`HostFacts`). What is
configured and not there is left out of the report and written to the log: a check before a move then finds it missing.

Blocking; meant for a thread.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kvmove import __version__
from kvmove.agent.config import AgentConfig, NicConfig
from kvmove.disk.datastore import Datastore
from kvmove.errors import CheckFailed, KvmoveError
from kvmove.model.host import DatastoreInfo, HostInfo, MigrationNic
from kvmove.qemu.accelerator import BINARY, Accelerator, find_accelerator
from kvmove.units import KIB

log = logging.getLogger(__name__)

COMMAND_SECONDS = 10.0
_DEVICES = Path("/sys/class/net")
_MEMINFO = Path("/proc/meminfo")
_BYTES_PER_MEGABIT = 10**6 // 8


class HostFacts:
    """The host of the agent with `config`. Made once: it asks QEMU for its version and may probe for KVM (seconds).

    :raise CheckFailed: QEMU is not installed.
    """

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self.qemu_version = qemu_version()
        self.accelerator: Accelerator = find_accelerator(config.state / "accelerator")

    def info(self, datastores: Iterable[Datastore]) -> HostInfo:
        """The host as it is now."""
        config = self._config
        memory_total, memory_free = parse_meminfo(_MEMINFO.read_text())
        return HostInfo(
            name=config.name,
            control=config.control,
            data_port=config.data_port,
            version=__version__,
            qemu_version=self.qemu_version,
            accelerator=self.accelerator,
            memory_total=memory_total,
            memory_free=memory_free,
            nics=migration_nics(config.nics),
            datastores=tuple(_present(datastores)),
            bridges=bridges(),
        )


def migration_nics(configured: Iterable[NicConfig]) -> tuple[MigrationNic, ...]:
    """The configured NICs that are there, are up and have an IPv4 address."""
    links = json.loads(_run("ip", "-json", "address", "show", "up"))
    return pick_nics(configured, links, _speed)


def pick_nics(
    configured: Iterable[NicConfig], links: list[dict[str, Any]], speed_of: Callable[[str], int]
) -> tuple[MigrationNic, ...]:
    """Pure: the same from what `ip -json address` printed; the first IPv4 address of a NIC counts."""
    addresses = {link["ifname"]: _first_ipv4(link) for link in links if "ifname" in link}
    found = []
    for nic in configured:
        if address := addresses.get(nic.name):
            found.append(MigrationNic(name=nic.name, address=address, speed=nic.speed or speed_of(nic.name)))
        else:
            log.warning("migration NIC %s is not up or has no IPv4 address; no move can use it", nic.name)
    return tuple(found)


def bridges() -> tuple[str, ...]:
    """The bridges of this host, by name."""
    return tuple(sorted(path.parent.name for path in _DEVICES.glob("*/bridge")))


def parse_meminfo(text: str) -> tuple[int, int]:
    """Total and available memory in bytes, from the text of /proc/meminfo."""
    kib = {match[1]: int(match[2]) for match in re.finditer(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    return kib["MemTotal"] * KIB, kib["MemAvailable"] * KIB


def qemu_version(binary: str = BINARY) -> str:
    """The version of this host's QEMU, `7.2.22`.

    :raise CheckFailed: it is not installed, or does not say its version.
    """
    said = _run(binary, "--version")
    match = re.search(r"version (\d+\.\d+\.\d+)", said)
    if match is None:
        raise CheckFailed(f"{binary} does not say its version, but: {said.splitlines()[:1]}")
    return match[1]


def _first_ipv4(link: dict[str, Any]) -> str | None:
    for address in link.get("addr_info", ()):
        if address.get("family") == "inet":
            return f"{address['local']}/{address['prefixlen']}"
    return None


def _speed(nic: str) -> int:
    """The NIC's own word on its speed, in bytes/s; 0 when it gives none (Linux: sysfs-class-net, `speed` in Mbit/s)."""
    try:
        megabits = int((_DEVICES / nic / "speed").read_text())
    except (OSError, ValueError):
        return 0
    return max(megabits, 0) * _BYTES_PER_MEGABIT


def _present(datastores: Iterable[Datastore]) -> Iterable[DatastoreInfo]:
    for store in datastores:
        try:
            yield store.info()
        except KvmoveError as error:
            log.warning("datastore %s cannot be used: %s", store.name, error.detail)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except FileNotFoundError as error:
        raise CheckFailed(
            f"the program {command[0]} is not installed",
            hint="Install qemu-system-x86 and iproute2 on this host.",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise CheckFailed(f"`{' '.join(command)}` did not end within {COMMAND_SECONDS:g} s") from error
    if done.returncode != 0:
        raise CheckFailed(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
