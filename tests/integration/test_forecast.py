"""A forecast over real hosts: it sees the wire, the disk and the guest, leaves nothing behind, and is kept."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvmove.lab import ledger_vm
from kvmove.lab.guest.image import build
from kvmove.lab.lab import Lab
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.moving import follow
from kvmove.lab.spec import SECOND, SHARED, DatastoreSpec, LabSpec
from kvmove.model.forecast import Forecast
from kvmove.model.move import MoveRequest
from kvmove.model.vm import VmState
from kvmove.qemu import guest_load, run_control
from kvmove.units import GIB, MIB
from tests.support.audience import Quiet
from tests.support.labs import lab_name, tidy_lab
from tests.support.moving_guest import GUEST
from tests.support.real_qemu import machine, until_it_writes

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

VM = LedgerVm(name="seer", memory=192 * MIB, disk=256 * MIB, data=96 * MIB, ram_mib=32, ram_rate=4000, rate=300)
SLOW, FAST = ("mig0",), ("mig1",)
SPEC = LabSpec(name=lab_name("forecast"), nics=(10_000_000, 40_000_000), datastore=DatastoreSpec(size=GIB), shared=True)
TRIES = 4
"""On a busy machine one try of a wire may tell of the machine and not of the wire."""


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    image = await asyncio.to_thread(build, GUEST)
    async with tidy_lab(SPEC) as lab:
        await ledger_vm.define(lab, VM, image, "h1")
        await ledger_vm.start(lab, VM)
        yield lab


def request(host: str | None = "h2", **options: object) -> MoveRequest:
    return MoveRequest.model_validate({"vm": VM.name, "host": host, **options})


async def forecast(lab: Lab, asked: MoveRequest) -> Forecast:
    checked = await lab.manager.check_move(asked, forecast=True)
    assert checked.forecast is not None
    return checked.forecast


def left_in_datastores(lab: Lab) -> set[Path]:
    folders = [host.datastore_called(name) for host in lab.hosts for name in ("local", SECOND, SHARED)]
    return {path for folder in folders for path in folder.rglob("*")}


async def test_a_forecast_sees_what_is_there_changes_nothing_and_the_task_keeps_it(lab: Lab) -> None:
    before = left_in_datastores(lab)
    slow = [await forecast(lab, request(nics=SLOW, encrypt=False)) for _ in range(TRIES)]
    fast = [await forecast(lab, request(nics=FAST, encrypt=False)) for _ in range(TRIES)]
    for part in ("copying-disks", "copying-memory"):
        assert min(it.parts[part] for it in slow) > 1.6 * min(it.parts[part] for it in fast)
    assert all("not" not in it.why.replace("not converge", "") for it in (*slow, *fast)), "every sample came"
    assert any("the guest changes " in it.why for it in slow), "the guest's memory was seen to change"
    sharing, copying = await forecast(lab, request(None, datastore=SECOND)), await forecast(
        lab, request(None, datastore=SHARED)
    )  # fmt: skip
    assert sharing.bytes < 16 * MIB < VM.data <= copying.bytes
    assert left_in_datastores(lab) == before
    seen = await lab.manager.vm(VM.name)
    assert (seen.host, seen.state, await lab.manager.tasks()) == ("h1", VmState.RUNNING, [])

    said = await forecast(lab, request())
    task = await follow(lab, await lab.manager.start_move(request()), Quiet())
    assert task.forecast == said
    assert task.report is not None
    sent = sum(task.report.bytes_per_nic.values())
    assert sent / 2 < said.bytes < sent * 2
    back = await forecast(lab, request("h1"))
    assert back.past_error == pytest.approx(abs(said.seconds - task.report.seconds) / task.report.seconds, abs=0.01)

    await lab.manager.kill_vm(VM.name)
    off = await forecast(lab, request("h1"))
    assert "copying-memory" not in off.parts
    assert off.why == "no memory moves"


async def test_qemu_says_of_a_small_guest_that_it_changes_nothing_whatever_it_does(tmp_path: Path) -> None:
    async with machine(tmp_path) as it:
        await run_control.cont(it.qemu.monitor)
        await until_it_writes(it.disk)
        size = await guest_load.memory_size(it.qemu.monitor)
        assert size < guest_load.LEAST_SAMPLED
        assert await guest_load.dirty_rate(it.qemu.monitor) == 0
        used = guest_load.memory_used(guest_load.read_smaps(it.qemu.process.pid), size)
        assert used is not None and 0 < used <= size
        first = await guest_load.written(it.qemu.monitor)
        await asyncio.sleep(0.5)
        assert (await guest_load.written(it.qemu.monitor)).requests > first.requests
        assert await it.run_state() == run_control.RUNNING
