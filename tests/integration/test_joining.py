"""A host joins a running cluster with a token, takes a VM, gives it back, and is put out everywhere when revoked."""

import asyncio
import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from kvmove.errors import CheckFailed, KvmoveError
from kvmove.lab import addresses, processes
from kvmove.lab.lab import Lab
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.preparation import DATA_PORT, control_address
from kvmove.lab.spec import SHARED
from kvmove.model.access import NewHost, RevokeRequest
from kvmove.units import MIB
from tests.support import access_probe
from tests.support.eventually import eventually
from tests.support.moving_guest import World, world

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

VM = LedgerVm(
    name="joiner", memory=160 * MIB, disk=256 * MIB, data=16 * MIB, ram_mib=16, rate=300, datastore=SHARED
)  # fmt: skip
H2 = NewHost(name="h2", control=control_address(1))
ALL_OPEN = {"manager": access_probe.OPEN, "agent": access_probe.OPEN, "data": access_probe.OPEN}


def manager_runs(lab: Lab) -> bool:
    return any(processes.argv(pid)[1:4] == ["-m", "kvmove", "manager"] for pid in lab.world.pids())


async def make_h2_a_stranger(there: World) -> None:
    """Its agent is down and has no certificate, and the manager does not know it."""
    lab = there.lab
    await lab.hold("world", "manager")
    await lab.hold("h2")
    await eventually(lambda: lab.host("h2").agent_pid() is None and not manager_runs(lab))
    config = lab.folders.host("world") / "manager.toml"
    known, _, rest = config.read_text().partition('\n[[host]]\nname = "h2"\n')
    config.write_text(known + rest.partition("\n")[2])
    shutil.rmtree(lab.folders.pki("h2"))
    await lab.release("world", "manager")
    async with asyncio.timeout(60):
        while not lab.folders.manager_socket.exists():
            await asyncio.to_thread(time.sleep, 0.2)
    assert [host.name for host in await lab.manager.hosts()] == ["h1"]


async def join(there: World, token: str) -> None:
    config = there.lab.folders.host("h2") / "agent.toml"
    command = [sys.executable, "-m", "kvmove", "agent", "join", token, "--config", str(config), "-o", "json"]
    told = json.loads(await there.lab.host("h2").exec(command))
    assert (told["name"], told["pki"]) == ("h2", str(there.lab.folders.pki("h2")))


async def doors(there: World) -> dict[str, str]:
    """What h2, with its certificate, meets at the manager and at h1."""
    h1, h2 = there.lab.hosts
    manager = f"https://{addresses.world_management()}:{addresses.MANAGER_PORT}"
    data = [addresses.migration(0, 0).address, str(DATA_PORT)]
    probe = str(Path(access_probe.__file__))
    pki = str(there.lab.folders.pki("h2"))
    said = await h2.exec([sys.executable, probe, pki, manager, h1.name, control_address(0), *data])
    found: dict[str, str] = json.loads(said)
    return found


async def is_up(there: World, host: LabHost) -> None:
    async with asyncio.timeout(60):
        while not (await there.lab.manager.host(host.name)).reachable:
            await asyncio.to_thread(time.sleep, 0.2)


async def test_a_host_joins_takes_a_vm_and_is_put_out() -> None:
    async with world(VM, "join") as there:
        h1, h2 = there.lab.hosts
        access = there.lab.manager.access
        await make_h2_a_stranger(there)
        invitation = await access.add_host(H2)
        await join(there, invitation.token)
        await there.lab.release("h2")
        await is_up(there, h2)
        assert await doors(there) == ALL_OPEN

        await there.move("h2")
        await there.runs_on(h2)
        with pytest.raises(CheckFailed, match="h2 has VMs or takes part in their moves: joiner"):
            await access.remove_host("h2")
        await there.move("h1")
        await there.runs_on(h1)

        revoked = await access.revoke(RevokeRequest(name="h2"))
        assert {it.revoked for it in revoked} == {True}
        await refused_everywhere(there)
        with pytest.raises(KvmoveError, match="h2"):
            await there.lab.manager.start_move(there.request("h2"))
        assert (await access.remove_host("h2")).name == "h2"
        assert [host.name for host in await there.lab.manager.hosts()] == ["h1"]
        await there.judge("h1")


async def refused_everywhere(there: World) -> None:
    """By the manager at once, by the other host once it has fetched the list."""
    assert (await doors(there))["manager"] != access_probe.OPEN
    async with asyncio.timeout(60):
        while access_probe.OPEN in (found := await doors(there)).values():
            await asyncio.to_thread(time.sleep, 0.5)
    assert "CERTIFICATE_REVOKED" in found["data"], found
    assert not (await there.lab.manager.host("h2")).reachable
