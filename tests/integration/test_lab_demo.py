"""The demo as a newcomer meets it: a guest moves, every figure is there, nothing is left, also after Ctrl-C."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from kvmove.lab import folders as places
from kvmove.lab import processes
from kvmove.lab.demo import run_demo
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.soak import run_soak
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.units import GIB, MIB
from tests.support.audience import Quiet
from tests.support.labs import lab_name

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

GUEST = Path(__file__).parents[2] / "build" / "guest"
SPEC = LabSpec(nics=(0, 0), datastore=DatastoreSpec(size=2 * GIB))
VM = LedgerVm(name="small", memory=160 * MIB, disk=256 * MIB, data=64 * MIB, ram_mib=16)


def left_by(purpose: str) -> list[str]:
    """Folders and processes of the runs of this process for that purpose."""
    found = [str(path) for parent in (places.VAR, places.RUN) for path in parent.glob(f"{purpose}-*")]
    hosts = [
        pid for pid in processes.all_pids() if processes.has_environment(pid, "KVMOVE_LAB", f"{purpose}-{os.getpid()}")
    ]
    return found + [str(pid) for pid in hosts]


async def test_the_demo_moves_a_guest_loses_nothing_and_leaves_nothing() -> None:
    audience = Quiet()
    outcome = await run_demo(SPEC, VM, GUEST, audience)
    found = outcome.result
    assert outcome.findings == ()
    assert found.ledger.lost == 0
    assert found.ledger.acknowledged > 0
    assert found.digests_equal
    assert not found.dual_run
    assert min(found.downtime_ms.qemu, found.downtime_ms.guest, found.downtime_ms.network) > 0
    assert min(found.writes_per_second.before, found.writes_per_second.copying, found.writes_per_second.after) > 0
    assert set(found.bytes) == {"mig0", "mig1"}
    assert sum(found.bytes.values()) > VM.data
    assert len(audience.plans) == 1
    assert audience.percents == sorted(audience.percents)
    assert left_by("demo") == []


@pytest.mark.full
async def test_a_soak_moves_there_and_back() -> None:
    outcome = await run_soak(SPEC, VM, GUEST, 2, Quiet())
    assert outcome.findings == []
    assert outcome.result.good
    assert outcome.result.hops == 2
    assert left_by("soak") == []


@pytest.mark.parametrize("after", [3, 9])
async def test_an_interrupted_demo_leaves_nothing(after: float, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "kvmove", "lab", "demo", "--results", str(tmp_path), "--guest-folder", str(GUEST)]
    demo = await asyncio.create_subprocess_exec(*argv, start_new_session=True, stderr=asyncio.subprocess.DEVNULL)
    await asyncio.sleep(after)
    demo.send_signal(signal.SIGINT)
    assert await demo.wait() == 130
    name = f"demo-{demo.pid}"
    assert not (places.VAR / name).exists()
    assert not (places.RUN / name).exists()
    assert [pid for pid in processes.all_pids() if processes.has_environment(pid, "KVMOVE_LAB", name)] == []
    assert not (tmp_path / "demo.json").exists()


class Commands:
    """The command line as a program of its own, with a configuration of its own."""

    def __init__(self, configuration: Path) -> None:
        self._environment = {**os.environ, "XDG_CONFIG_HOME": str(configuration)}

    async def run(self, *words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kvmove", *words, env=self._environment, stdout=PIPE, stderr=PIPE
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()

    async def host_of_the_vm(self) -> str:
        [vm] = json.loads(await self.run("vm", "list", "-o", "json"))
        assert (vm["definition"]["name"], vm["state"]) == ("demo", "running")
        return str(vm["host"])


async def test_one_can_play_with_a_lab(tmp_path: Path) -> None:
    kvmove = Commands(tmp_path)
    name = lab_name("play")
    sizes = ["--memory", "256MiB", "--disk", "128MiB", "--data", "32MiB", "--datastore-size", "1GiB"]
    try:
        await kvmove.run("lab", "up", "--name", name, "--rate", "unshaped", *sizes, "--guest-folder", str(GUEST))
        assert await kvmove.host_of_the_vm() == "h1"
        assert json.loads(await kvmove.run("move", "demo", "h2", "-o", "json"))["state"] == "succeeded"
        assert await kvmove.host_of_the_vm() == "h2"
        await kvmove.run("lab", "down", "--name", name)
        assert not (tmp_path / "kvmove" / "config.toml").exists()
        assert not (places.VAR / name).exists()
    finally:
        await Lab.down(name)
