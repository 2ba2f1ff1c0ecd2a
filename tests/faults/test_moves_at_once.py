"""Two things are asked of one VM at once, one of them a move: one is done, the other is refused with the reason."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kvmove.client.manager import ManagerClient
from kvmove.errors import Busy, KvmoveError
from kvmove.lab import ledger_vm
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.moving import follow
from kvmove.lab.spec import LOCAL, SHARED
from kvmove.model.task import Task, TaskState
from kvmove.units import MIB
from tests.support.audience import Quiet
from tests.support.eventually import eventually
from tests.support.moving_guest import World, world
from tests.support.storage_trouble import nothing_is_left

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

VM = LedgerVm(name="wanted", memory=160 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=16, rate=300)
full = pytest.mark.full


async def held(host: LabHost, point: str) -> None:
    """The host's agent is at that failpoint."""
    await eventually(lambda: host.is_held(point))


async def one_of(there: World, *asked: Awaitable[Task]) -> Task:
    """Exactly one of the moves begins; the others are refused as Busy, and say of what. Ended, if it succeeded."""
    answers = await asyncio.gather(*asked, return_exceptions=True)
    [begun] = [answer for answer in answers if isinstance(answer, Task)]
    refused = [answer for answer in answers if not isinstance(answer, Task)]
    assert len(refused) == len(asked) - 1
    for error in refused:
        assert isinstance(error, Busy), error
        assert VM.name in error.detail
        assert "kvmove task" in error.hint
    tasks = await there.lab.manager.tasks()
    assert [task.id for task in tasks if not task.ended_state or task.id == begun.id] == [begun.id]
    return await follow(there.lab, begun, Quiet())


async def test_of_several_moves_in_one_moment_one_is_done() -> None:
    async with world(VM, "sft") as there:
        manager = there.lab.manager
        away, aside = there.request("h2"), there.request(None, datastore=SHARED)
        ended = await one_of(there, *(manager.start_move(request) for request in (away, aside, away, aside)))
        assert ended.state is TaskState.SUCCEEDED
        host = "h2" if ended.destination == "h2" else "h1"
        await there.runs_on(there.lab.host(host))
        vm = await manager.vm(str(VM.uuid))
        assert [disk.datastore for disk in vm.definition.disks] == [LOCAL if host == "h2" else SHARED]
        disk = there.lab.host(host).datastore_called(vm.definition.disks[0].datastore) / str(VM.uuid) / "root.raw"
        await there.judge(host, disk)


@full
async def test_a_storage_move_keeps_a_move_away_off_and_the_other_way_round() -> None:
    async with world(VM, "sft") as there:
        source, manager = there.lab.host("h1"), there.lab.manager
        for first, point, second in (
            (there.request(None, datastore=SHARED), "storage-pivoted", there.request("h2")),
            (there.request("h2", datastore=LOCAL), "source-pre-switchover", there.request(None, datastore=LOCAL)),
        ):
            source.arm(point, "hold")
            task = await manager.start_move(first)
            await held(source, point)
            with pytest.raises(Busy, match="moves already") as caught:
                await manager.start_move(second)
            assert task.id in caught.value.hint
            source.disarm(point)
            await follow(there.lab, task, Quiet())
        await there.runs_on(there.lab.host("h2"))
        await there.judge("h2")


Ask = Callable[[ManagerClient], Awaitable[object]]
COMMANDS: dict[str, Ask] = {
    "stop": lambda manager: manager.stop_vm(VM.name),
    "kill": lambda manager: manager.kill_vm(VM.name),
    "start": lambda manager: manager.start_vm(VM.name),
    "pause": lambda manager: manager.pause_vm(VM.name),
    "delete": lambda manager: manager.delete_vm(VM.name),
}


@full
async def test_a_vm_that_moves_is_left_alone() -> None:
    async with world(VM, "sft") as there:
        source, manager = there.lab.host("h1"), there.lab.manager
        for request, point in (
            (there.request(None, datastore=SHARED), "storage-mirroring"),
            (there.request("h2", datastore=LOCAL), "source-mirroring"),
        ):
            source.arm(point, "hold")
            task = await manager.start_move(request)
            await held(source, point)
            for name, ask in COMMANDS.items():
                with pytest.raises(Busy) as caught:
                    await ask(manager)
                assert VM.name in caught.value.detail, name
                assert "kvmove" in caught.value.hint, name
            source.disarm(point)
            ended = await follow(there.lab, task, Quiet())
            assert ended.state is TaskState.SUCCEEDED
        await there.runs_on(there.lab.host("h2"))
        await there.judge("h2")


@full
@pytest.mark.parametrize("name", ["kill", "delete"])
@pytest.mark.parametrize("to", ["h2", None])
async def test_a_move_in_the_same_moment_as_another_command(name: str, to: str | None) -> None:
    """Whoever comes first is done; the other finds the VM as that left it. Nothing half-made is left."""
    async with world(VM, "sft") as there:
        manager = there.lab.manager
        if name == "delete":
            await manager.kill_vm(VM.name)
        request = there.request(to, datastore=SHARED if to is None else LOCAL)
        begun, said = await asyncio.gather(manager.start_move(request), COMMANDS[name](manager), return_exceptions=True)
        for answer in (begun, said):
            assert not isinstance(answer, BaseException) or isinstance(answer, KvmoveError), answer
        moved = False
        if isinstance(begun, Task):
            try:
                moved = (await follow(there.lab, begun, Quiet())).state is TaskState.SUCCEEDED
            except KvmoveError as error:
                assert error.hint
        assert moved or not isinstance(said, BaseException), (begun, said)
        await nothing_is_left(there, there.lab.host("h1"))
        vms = [vm for vm in await manager.vms() if vm.definition.uuid == VM.uuid]
        if name == "delete" and not isinstance(said, BaseException):
            assert vms == []
            return
        [seen] = vms
        if VM.uuid not in there.lab.host(seen.host).qemu_pids():
            await ledger_vm.start(there.lab, VM)
        await there.runs_on(there.lab.host(seen.host))
        [disk] = seen.definition.disks
        await there.judge(
            seen.host, there.lab.host(seen.host).datastore_called(disk.datastore) / str(VM.uuid) / "root.raw"
        )
