"""Hosts that are far apart: the lab's long wires, and that a move waits for the bytes and not for the way.

Times are judged against the round trip and against the same work at no distance, never by themselves.
"""

import asyncio
import filecmp
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kvmove.lab import processes
from kvmove.lab.commands import in_network
from kvmove.lab.lab import Lab
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.model.move import MoveReport
from kvmove.units import GIB, MIB
from tests.support.labs import SMALL, lab_name, tidy_lab
from tests.support.moving_guest import world_of

pytestmark = pytest.mark.lab

RTT_MS = 100
RTT = RTT_MS / 1000
RATE = 25_000_000
SIZE = 64 * MIB
REGIONS = SIZE // MIB

CONNECT = """
import socket, sys, time
best = 9.0
for _ in range(4):
    began = time.monotonic()
    with socket.socket() as peer:
        peer.connect_ex((sys.argv[1], 9))
    best = min(best, time.monotonic() - began)
print(best)
"""
ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def apart(rtt_ms: int) -> AsyncIterator[Lab]:
    spec = LabSpec(name=lab_name(f"far{rtt_ms}"), nics=(RATE,), rtt_ms=rtt_ms, datastore=SMALL, bare=True)
    async with tidy_lab(spec) as lab:
        await round_trip(lab.hosts[0], "10.91.0.12")
        yield lab


async def round_trip(host: LabHost, address: str) -> float:
    """Seconds of the fastest of some attempts to connect to a closed port, once one is answered at all."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        took = float(await host.exec([sys.executable, "-c", CONNECT, address]))
        if took < 2.0:
            return took
    raise AssertionError(f"{address} is not reached")


async def test_every_way_between_hosts_takes_the_round_trip_also_of_a_host_that_came_back() -> None:
    async with apart(RTT_MS) as lab:
        first, second = lab.hosts
        for address in ("10.91.0.12", "10.90.0.12", "10.90.0.1"):
            assert RTT <= await round_trip(first, address) < 2 * RTT
        await lab.power_off("h2")
        await lab.power_on("h2")
        assert RTT <= await round_trip(second, "10.91.0.11") < 2 * RTT
        [line] = [pid for pid in lab.world.pids() if "kvmove.lab.delay_line" in processes.argv(pid)]
        os.kill(line, 9)
        assert RTT <= await round_trip(second, "10.91.0.11") < 2 * RTT


def far_copy(host: LabHost, *words: str) -> subprocess.Popen[str]:
    argv = in_network(host.init, [sys.executable, "-m", "tests.support.far_copy", *words])
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def copied(lab: Lab, folder: Path) -> tuple[float, list[float]]:
    """Copy a disk that a guest writes to from h1 to h2: how long it took, and how long each write was held."""
    first, second = lab.hosts
    source, target = folder / "source.raw", folder / "target.raw"
    source.write_bytes(os.urandom(SIZE))
    target.unlink(missing_ok=True)
    receiver = far_copy(second, "receive", "10.91.0.12", str(target), str(SIZE))
    try:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "listening\n"
        with far_copy(first, "send", "10.91.0.11", "10.91.0.12", str(source)) as sender:
            said = json.loads(sender.communicate()[0])
    finally:
        receiver.kill()
        receiver.communicate()
    assert said["settled"]
    assert said["mode"] == "async"
    assert filecmp.cmp(source, target, shallow=False)
    return said["seconds"], sorted(said["held"])


@pytest.mark.timeout(150)
async def test_nothing_waits_for_the_way_in_a_copy(tmp_path: Path) -> None:
    """A copy that waited for a reply after each region would take REGIONS round trips more; TCP takes about ten to
    find out what the way carries. A guest's write that waited for a reply would be held for a round trip. The kernel
    would hold a tenth of what is under way, as one with its usual limits would of 2 Gbit/s."""
    async with apart(0) as lab:
        near, _ = await asyncio.to_thread(copied, lab, tmp_path)
    async with apart(RTT_MS) as lab:
        for host in lab.hosts:
            await host.exec(["sh", "-c", "cd /proc/sys/net/ipv4; echo 4096 65536 262144 | tee tcp_rmem >tcp_wmem"])
        far, held = await asyncio.to_thread(copied, lab, tmp_path)
    assert far - near < REGIONS / 2 * RTT
    assert len(held) > 100
    assert held[int(0.95 * len(held))] < RTT


async def moved(rtt_ms: int) -> tuple[float, MoveReport]:
    vm = LedgerVm(memory=256 * MIB - 65536, disk=320 * MIB, data=256 * MIB, rate=300, ram_rate=200, ram_mib=32)
    spec = LabSpec(
        name=lab_name(f"way{rtt_ms}"), nics=(RATE,), rtt_ms=rtt_ms, datastore=DatastoreSpec(size=GIB)
    )  # fmt: skip
    async with world_of(spec, vm) as far:
        watched = await far.move("h2")
        await far.judge("h2")
    assert watched.task.report is not None
    return watched.seconds, watched.task.report


@pytest.mark.full
@pytest.mark.timeout(400)
async def test_a_whole_move_takes_some_round_trips_more_and_no_more_than_that() -> None:
    """Connections, TCP's start and the steps of the procedure are about 40 round trips; regions are 256."""
    near_seconds, near = await moved(0)
    far_seconds, far = await moved(RTT_MS)
    assert far_seconds - near_seconds < 100 * RTT
    [disk] = far.disks
    assert disk.mode_changes == ()
    assert disk.hold_p99_ms < RTT_MS
    assert sum(far.switchover_ms.values()) - sum(near.switchover_ms.values()) < 15 * RTT_MS
