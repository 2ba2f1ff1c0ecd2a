"""What the wire itself can carry between a lab's hosts: iperf3 over all migration NICs at once."""

import asyncio
import json

from kvmove.lab import addresses
from kvmove.lab.commands import LabFailed
from kvmove.lab.lab_host import LabHost

PORT = 5201
SECONDS = 3
OMITTED = 2
"""Seconds at the start that do not count: a connection over a long way needs them to get up to speed."""


async def wire_rate(source: LabHost, destination: LabHost, nics: int) -> float:
    """Bytes a second that arrive at the destination, of all `nics` together.

    :raise LabFailed: iperf3 is not installed, or failed.
    """
    if source.index is None or destination.index is None:
        raise LabFailed("the wire is measured between hosts")
    for nic in range(nics):
        there = addresses.migration(nic, destination.index).address
        await destination.exec(["iperf3", "--server", "--one-off", "--daemon", "--bind", there, "--port", str(PORT)])
    await asyncio.sleep(0.3)  # a daemon returns before it listens
    return sum(await asyncio.gather(*(_one(source, destination, nic) for nic in range(nics))))


async def _one(source: LabHost, destination: LabHost, nic: int) -> float:
    assert source.index is not None and destination.index is not None
    here, there = (addresses.migration(nic, index).address for index in (source.index, destination.index))
    words = ["iperf3", "--client", there, "--bind", here, "--port", str(PORT), "--json"]
    said = await source.exec([*words, "--time", str(SECONDS), "--omit", str(OMITTED)])
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 8
