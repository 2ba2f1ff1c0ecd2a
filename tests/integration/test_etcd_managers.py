"""Two managers of the same hosts and the same etcd: both serve, and a VM moves once, whoever is asked."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kvmove.client.manager import ManagerClient
from kvmove.errors import KvmoveError
from kvmove.lab.commands import in_network
from kvmove.lab.folders import WORLD
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.spec import SHARED
from kvmove.model.task import Task, TaskState
from kvmove.units import MIB
from tests.support.moving_guest import world

pytestmark = [pytest.mark.lab, pytest.mark.full, pytest.mark.timeout(300)]

VM = LedgerVm(name="managers", memory=160 * MIB, disk=128 * MIB, data=32 * MIB, ram_mib=16, rate=300, datastore=SHARED)
SERVES_WITHIN = 60.0


@asynccontextmanager
async def second_manager(lab: Lab) -> AsyncIterator[ManagerClient]:
    """Beside the lab's own, with a state, a port and a socket of its own; all else in its configuration is the same."""
    folder = lab.folders.host(WORLD) / "second"
    folder.mkdir()
    own, socket = (lab.folders.host(WORLD) / "manager.toml").read_text(), folder / "manager.sock"
    changed = own.replace(str(lab.folders.manager_socket), str(socket)).replace(":7440", ":7449")
    config = folder / "manager.toml"
    config.write_text(changed.replace(f'"{lab.folders.host(WORLD) / "manager"}"', f'"{folder / "state"}"'))
    argv = in_network(lab.world.init or 0, [sys.executable, "-m", "kvmove", "manager", "--config", str(config)])
    process = await asyncio.create_subprocess_exec(*argv)
    client = ManagerClient(f"unix:{socket}")
    try:
        async with asyncio.timeout(SERVES_WITHIN):
            while True:
                if await serves(client):
                    break
                await asyncio.sleep(0.2)
        yield client
    finally:
        await client.close()
        process.terminate()
        await process.wait()


async def serves(manager: ManagerClient) -> bool:
    try:
        return all(host.reachable for host in await manager.hosts())
    except KvmoveError:
        return False


async def test_of_two_managers_asked_at_once_one_moves_the_vm() -> None:
    async with world(VM, "managers", registry="etcd") as there, second_manager(there.lab) as second:
        first = there.lab.manager
        answers = await asyncio.gather(
            first.start_move(there.request("h2")), second.start_move(there.request("h2")), return_exceptions=True
        )
        begun = [it for it in answers if isinstance(it, Task)]
        refused = [it for it in answers if isinstance(it, KvmoveError)]
        assert (len(begun), len(refused)) == (1, 1), answers
        asked, idle = (first, second) if isinstance(answers[0], Task) else (second, first)
        assert (await until_ended(asked, begun[0])).state is TaskState.SUCCEEDED
        await there.runs_on(there.lab.host("h2"))
        assert (await idle.vm(VM.name)).host == "h2"
        task = await idle.start_move(there.request("h1"))
        assert (await until_ended(idle, task)).state is TaskState.SUCCEEDED
        await there.runs_on(there.lab.host("h1"))
        assert {it.id for it in await first.tasks()}.isdisjoint(it.id for it in await second.tasks())
        await there.judge("h1")


async def until_ended(manager: ManagerClient, task: Task) -> Task:
    async with asyncio.timeout(120):
        async for seen in manager.watch_task(task.id):
            if seen.ended_state:
                return seen
    raise AssertionError("the task never ended")
