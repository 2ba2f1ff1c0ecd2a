"""Host facts from what the kernel and the tools print."""

from typing import Any

import pytest

from kvmove.agent.config import NicConfig
from kvmove.agent.host_facts import parse_meminfo, pick_nics, qemu_version
from kvmove.errors import CheckFailed
from kvmove.model.host import MigrationNic

LINKS: list[dict[str, Any]] = [
    {
        "ifname": "mig0",
        "addr_info": [
            {"family": "inet6", "local": "fe80::1", "prefixlen": 64},
            {"family": "inet", "local": "10.10.0.1", "prefixlen": 24},
            {"family": "inet", "local": "10.99.0.1", "prefixlen": 16},
        ],
    },
    {"ifname": "mig1", "addr_info": [{"family": "inet", "local": "10.11.0.1", "prefixlen": 24}]},
    {"ifname": "bare", "addr_info": []},
    {},
]


def test_the_first_ipv4_address_of_each_configured_nic_counts() -> None:
    found = pick_nics([NicConfig(name="mig1"), NicConfig(name="mig0", speed=125_000_000)], LINKS, lambda nic: 7)
    assert found == (
        MigrationNic(name="mig1", address="10.11.0.1/24", speed=7),
        MigrationNic(name="mig0", address="10.10.0.1/24", speed=125_000_000),
    )


@pytest.mark.parametrize("name", ["bare", "absent"])
def test_a_nic_that_cannot_be_used_is_left_out_and_logged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert pick_nics([NicConfig(name=name)], LINKS, lambda nic: 0) == ()
    assert f"migration NIC {name}" in caplog.text


def test_memory_is_read_in_bytes() -> None:
    text = "MemTotal:       16384 kB\nMemFree:          512 kB\nMemAvailable:    8192 kB\nHugePages_Total:       3\n"
    assert parse_meminfo(text) == (16384 * 1024, 8192 * 1024)


def test_a_missing_program_is_said_with_what_to_install() -> None:
    with pytest.raises(CheckFailed, match="no-such-qemu is not installed") as caught:
        qemu_version("no-such-qemu")
    assert "qemu-system-x86" in caught.value.hint
