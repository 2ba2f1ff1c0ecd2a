"""A lab with one small guest that writes all the time, moved by tests and judged by its ledger."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from kvmove.errors import KvmoveError
from kvmove.lab import ledger_vm
from kvmove.lab.demo import judge_disk
from kvmove.lab.disk_image import DiskImage, find
from kvmove.lab.guest.image import GuestImage, build
from kvmove.lab.guest.verifier import Expect, Verdict, verify
from kvmove.lab.lab import Lab
from kvmove.lab.lab_host import LabHost
from kvmove.lab.ledger_vm import LedgerVm
from kvmove.lab.moving import WatchedMove, follow, watched_move
from kvmove.lab.preparation import recorder_folder
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.model.move import MoveRequest
from kvmove.model.task import Task
from kvmove.model.vm import VmState
from kvmove.units import GIB, MIB
from tests.support.audience import Quiet
from tests.support.eventually import eventually
from tests.support.labs import lab_name, tidy_lab

AGENT_SECONDS = 30.0
"""Longer than that no restarted agent takes."""

GUEST = Path(__file__).parents[2] / "build" / "guest"


@dataclass
class World:
    """The lab, its guest running on h1 at first."""

    lab: Lab
    vm: LedgerVm
    image: GuestImage

    def request(self, host: str | None, **options: object) -> MoveRequest:
        return MoveRequest.model_validate({"vm": self.vm.name, "host": host, **options})

    async def move(self, host: str | None, **options: object) -> WatchedMove:
        """Watch a move that must succeed."""
        return await watched_move(
            self.lab, self.vm, self.request(host, **options), Quiet(), settle=0.5, sample=False
        )  # fmt: skip

    async def fails(self, request: MoveRequest, point: str, fault: Callable[[], object]) -> Task:
        """Do `fault` while the agent of h1 is held at the failpoint; the move must not succeed."""
        source = self.lab.host("h1")
        source.arm(point, "hold")
        task = await self.lab.manager.start_move(request)
        await eventually(lambda: source.is_held(point))
        fault()
        source.disarm(point)
        with pytest.raises(KvmoveError):
            await follow(self.lab, task, Quiet())
        return await self.lab.manager.task(task.id)

    async def runs_on(self, host: LabHost) -> None:
        """It does, and nowhere else; an agent that was restarted says so soon."""
        wanted = [it is host for it in self.lab.hosts]
        await eventually(lambda: [self.vm.uuid in it.qemu_pids() for it in self.lab.hosts] == wanted)
        async with asyncio.timeout(AGENT_SECONDS):
            while (seen := await self.lab.manager.vm(str(self.vm.uuid))).state is VmState.UNKNOWN:
                await asyncio.to_thread(time.sleep, 0.1)
        assert (seen.host, seen.state) == (host.name, VmState.RUNNING)
        await ledger_vm.wait_until_heard(self.lab, self.vm)

    async def judge(self, host: str, disk: Path | None = None) -> None:
        """End the guest there; no acknowledged write may be missing on its disk."""
        verdict = await judge_disk(self.lab, self.vm, self.image, host, disk)
        assert verdict.checked > 0
        assert verdict.ok, verdict

    async def judge_all(self) -> None:
        """End the guest; on none of its disks, wherever they lie, an acknowledged write may be missing."""
        seen = await self.lab.manager.vm(str(self.vm.uuid))
        await self.lab.manager.kill_vm(str(self.vm.uuid))
        for number, disk in enumerate(seen.definition.disks):
            image = await find(self.lab, seen.host, self.vm.uuid, disk)
            verdict = await asyncio.to_thread(self._verify, number, image)
            assert verdict.checked > 0
            assert verdict.ok, (disk, verdict)

    def _verify(self, number: int, disk: DiskImage) -> Verdict:
        expect = Expect(vm=self.vm.number, disk=number, prefill=self.vm.prefill_of(number))
        with disk.content() as raw:
            return verify(raw, recorder_folder(self.lab.folders), self.image.verify_tool, expect)


@asynccontextmanager
async def world(
    vm: LedgerVm,
    purpose: str,
    *,
    hosts: int = 2,
    block: int = 0,
    registry: Literal["sqlite", "etcd"] = "sqlite",
    nic: int = 0,
) -> AsyncIterator[World]:
    """The lab with a shared datastore, `block` devices that its disk fits on, and one NIC of `nic` bytes/s, 0 is
    unshaped; nothing is left of it."""
    names = tuple(f"h{number + 1}" for number in range(hosts))
    spec = LabSpec(
        name=lab_name(purpose), hosts=names, nics=(nic,), datastore=DatastoreSpec(size=GIB), shared=True, block=block,
        block_size=vm.disk + MIB, registry=registry,
    )  # fmt: skip
    async with world_of(spec, vm) as made:
        yield made


@asynccontextmanager
async def world_of(spec: LabSpec, vm: LedgerVm) -> AsyncIterator[World]:
    """The lab of `spec` with the guest running on h1; nothing is left of it."""
    image = await asyncio.to_thread(build, GUEST)
    async with tidy_lab(spec) as lab:
        await ledger_vm.define(lab, vm, image, "h1")
        await ledger_vm.start(lab, vm)
        yield World(lab, vm, image)
