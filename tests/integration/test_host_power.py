"""Power on a lab of four hosts: an idle one is emptied and powered off by the command, and on again when needed."""

import json
import os
import signal
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from kvmove.lab import processes
from kvmove.lab.lab import Lab
from kvmove.lab.spec import SHARED, LabSpec
from kvmove.model.vm import DiskDefinition, VmDefinition
from kvmove.units import GIB, MIB
from tests.support.comes_true import comes_true
from tests.support.labs import SMALL, lab_name, tidy_lab

pytestmark = [pytest.mark.lab, pytest.mark.full, pytest.mark.timeout(600)]

MANAGER = ["-m", "kvmove", "manager"]

SWITCH = """
import asyncio, sys
from pathlib import Path
from kvmove.lab.control import ask
control, said, what, host = sys.argv[1:]
asyncio.run(ask(Path(control), what, host=host))
with Path(said).open("a") as log:
    log.write(f"{what} {host}\\n")
"""


async def with_power(lab: Lab, said: Path) -> None:
    """The manager powers h4 off and on by itself from now on, by the lab's own switch."""
    command = [sys.executable, "-c", SWITCH, str(lab.folders.control), str(said)]
    lines = ["", "[balance]", "hold_seconds = 1", "interval_seconds = 1", "", "[balance.power]", 'mode = "automatic"']
    lines += ["low = 0.25", "high = 0.40", "keep = 3", 'never = ["h1", "h2", "h3"]']
    lines += [f"{name} = {json.dumps([*command, f'power-{name}', '{host}'])}" for name in ("off", "on")]
    config = lab.folders.host("world") / "manager.toml"
    config.write_text(config.read_text() + "\n".join(lines) + "\n")
    [pid] = [pid for pid in lab.world.pids() if processes.argv(pid)[1:4] == MANAGER]
    os.kill(pid, signal.SIGKILL)  # it is started again
    await lab.ready()


async def run_vm(lab: Lab, name: str, host: str, memory: int) -> None:
    disk = DiskDefinition(name="root", datastore=SHARED, size=16 * MIB)
    await lab.manager.define_vm(host, VmDefinition(name=name, uuid=uuid4(), memory=memory, disks=(disk,)))
    await lab.manager.start_vm(name)


async def test_an_idle_host_is_emptied_and_powered_off_and_on_when_it_is_needed(tmp_path: Path) -> None:
    spec = LabSpec(
        name=lab_name("power"), hosts=("h1", "h2", "h3", "h4"), nics=(0,), datastore=SMALL, shared=True,
        host_memory=4 * GIB,
    )  # fmt: skip
    said = tmp_path / "said"
    async with tidy_lab(spec) as lab:
        await run_vm(lab, "a", "h4", 256 * MIB)
        await with_power(lab, said)

        async def is_off() -> bool:
            return said.exists() and (await lab.manager.host("h4")).powered_off

        await comes_true(is_off)
        assert said.read_text() == "power-off h4\n"
        assert (await lab.manager.vm("a")).host != "h4"
        assert not (await lab.status())["hosts"]["h4"]["running"]
        for name, host in {"b": "h1", "c": "h2", "d": "h3"}.items():
            await run_vm(lab, name, host, 1920 * MIB)

        async def takes_vms() -> bool:
            seen = await lab.manager.host("h4")
            return seen.reachable and not seen.powered_off and seen.maintenance is None

        await comes_true(takes_vms)
        assert said.read_text() == "power-off h4\npower-on h4\n"
