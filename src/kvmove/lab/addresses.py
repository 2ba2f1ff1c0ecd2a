"""Who has which address in a lab. Pure.

Every lab uses the same addresses: they live in its own namespaces, so labs cannot collide.
"""

from dataclasses import dataclass

CONTROL_PORT = 7441
MANAGER_PORT = 7440
PREFIX = 24
MANAGEMENT_NIC = "mgmt0"
GUEST_BRIDGE = "br0"
FIRST_HOST = 11
FIRST_GUEST = 101
GUESTS = 150
"""Guests that have an address of their own; their numbers may go on, and the addresses go round."""


@dataclass(frozen=True)
class NicAddress:
    """A NIC's name and its IPv4 address, without prefix; all subnets are /24."""

    name: str
    address: str


def management(index: int) -> NicAddress:
    """The management NIC of host number `index`, from 0."""
    return NicAddress(MANAGEMENT_NIC, f"10.90.0.{FIRST_HOST + index}")


def world_management() -> str:
    """Where the manager listens."""
    return "10.90.0.1"


def migration(nic: int, index: int) -> NicAddress:
    """Migration NIC number `nic` of host number `index`; every NIC number is a subnet of its own."""
    return NicAddress(f"mig{nic}", f"10.91.{nic}.{FIRST_HOST + index}")


def world_guests() -> str:
    """Where the recorder listens, on the guests' network."""
    return "10.92.0.1"


def guest(number: int = 0) -> str:
    """The address of guest `number`; it keeps it wherever it runs."""
    return f"10.92.0.{FIRST_GUEST + number % GUESTS}"


def guest_mac(number: int = 0) -> str:
    """A locally administered MAC address for guest `number`."""
    return f"52:54:00:92:00:{FIRST_GUEST + number % GUESTS:02x}"


def host_mac(index: int, nic: int) -> str:
    """The locally administered MAC address of NIC number `nic` of host number `index`, counted over all its NICs.

    A host keeps it when it is powered on again, as a real one does: to a new one its neighbours would send nothing
    until they have forgotten the old, which takes the kernel up to three quarters of a minute.
    """
    return f"52:54:00:90:{index:02x}:{nic:02x}"
