"""Tap devices: the host's end of a VM's network cards, as ports of bridges.

A name is derived from the VM's UUID and the card's number, so after a restart every tap is found again, and nobody
else's device is ever touched. Tap devices are persistent: they are there before QEMU, and go after it.

Not done here: making bridges, and addresses.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2s
from pathlib import Path
from uuid import UUID

from kvmove.errors import CheckFailed, MoveFailed
from kvmove.model.vm import NicDefinition, VmDefinition

IP_SECONDS = 10.0
MOST_NICS = 8
"""Network cards that a definition may have."""

DEVICES = Path("/sys/class/net")


def tap_name(vm: UUID, number: int) -> str:
    """The name of the tap of network card `number`: 14 characters, of the 15 that Linux allows."""
    return f"kv{blake2s(vm.bytes + bytes([number]), digest_size=6).hexdigest()}"


def tap_names(definition: VmDefinition) -> dict[str, str]:
    """The tap of every network card, by the card's name."""
    return {nic.name: tap_name(definition.uuid, number) for number, nic in enumerate(definition.nics)}


async def create_taps(definition: VmDefinition) -> dict[str, str]:
    """Make the VM's taps anew, ports of their bridges and up; their names by the cards' names.

    :raise CheckFailed: a bridge is not there. :raise MoveFailed: `ip` failed. None of the VM's taps is left then.
    """
    names = tap_names(definition)
    for nic in definition.nics:
        require_bridge(nic)
    try:
        for nic in definition.nics:
            await _create(names[nic.name], nic.bridge)
    except BaseException:
        await delete_taps(definition.uuid)
        raise
    return names


async def delete_taps(vm: UUID) -> None:
    """Delete the VM's taps, as far as they are there; its definition need not be known.

    :raise MoveFailed: `ip` failed.
    """
    for number in range(MOST_NICS):
        await _delete(tap_name(vm, number))


def require_bridge(nic: NicDefinition) -> None:
    """:raise CheckFailed: this host has no such bridge."""
    if not (DEVICES / nic.bridge / "bridge").is_dir():
        raise CheckFailed(
            f"This host has no bridge {nic.bridge}, which network card {nic.name} needs",
            hint=f"Make it: `ip link add {nic.bridge} type bridge`, `ip link set {nic.bridge} up`.",
        )


async def _create(name: str, bridge: str) -> None:
    await _delete(name)  # left over from a QEMU that crashed
    await _ip("tuntap", "add", "dev", name, "mode", "tap")
    await _ip("link", "set", "dev", name, "master", bridge)
    await _ip("link", "set", "dev", name, "up")


async def _delete(name: str) -> None:
    if (DEVICES / name).exists():
        await _ip("link", "delete", "dev", name)


async def _ip(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "ip", *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(IP_SECONDS):
            _, said = await process.communicate()
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise MoveFailed(f"`ip {' '.join(arguments)}` did not end within {IP_SECONDS:g} s") from error
    if process.returncode != 0:
        raise MoveFailed(f"`ip {' '.join(arguments)}` failed: {said.decode(errors='replace').strip()}")
