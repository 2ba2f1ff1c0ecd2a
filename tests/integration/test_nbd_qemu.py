"""The mirror target against a real QEMU: what the design takes for granted about `blockdev-mirror` is seen here.

The guest's part is played by `qemu-io` commands on the virtual disk; the guest itself never starts.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvmove.errors import Unreachable
from kvmove.nbd.server import NbdServer
from kvmove.qemu.monitor import Event, Monitor
from tests.support.nbd_recorder import Recorder

SIZE = 8 * 1024 * 1024
DISK = "/machine/peripheral/vd0/virtio-backend"


class Machine:
    """A QEMU with one raw disk, node `d0`, whose guest is stopped."""

    def __init__(self, monitor: Monitor, disk: Path) -> None:
        self.monitor = monitor
        self.disk = disk

    async def guest(self, command: str) -> str:
        """Do what a guest would do with its disk: a `qemu-io` command."""
        line = {"command-line": f'qemu-io -d {DISK} "{command}"'}
        return str(await self.monitor.execute("human-monitor-command", line))

    async def mirror(self, socket: Path) -> None:
        since = self.monitor.sequence
        target = {"driver": "nbd", "node-name": "t0", "server": {"type": "unix", "path": str(socket)}, "export": "d0"}
        await self.monitor.execute("blockdev-add", target)
        job = {"job-id": "j0", "device": "d0", "target": "t0", "sync": "none", "copy-mode": "write-blocking"}
        await self.monitor.execute("blockdev-mirror", job | {"granularity": 4096, "filter-node-name": "f0"})
        await self.monitor.wait_event("BLOCK_JOB_READY", timeout=10, since=since)
        await self.monitor.execute("transaction", {"actions": []})

    async def job_ended(self, since: int) -> Event:
        return await self.monitor.wait_event("BLOCK_JOB_COMPLETED", timeout=10, since=since)

    async def delete_target(self) -> None:
        await self.monitor.execute("blockdev-del", {"node-name": "t0"})

    async def status(self) -> Any:
        return (await self.monitor.execute("query-status"))["status"]


async def _connect(path: Path) -> Monitor:
    for _ in range(500):
        try:
            return await Monitor.connect(path)
        except Unreachable:
            await asyncio.sleep(0.02)  # QEMU is starting
    raise AssertionError("QEMU did not start")


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    disk, qmp = tmp_path / "d0.raw", tmp_path / "qmp"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    node = f'{{"driver":"raw","node-name":"d0","file":{{"driver":"file","filename":"{disk}"}},"discard":"unmap"}}'
    process = await asyncio.create_subprocess_exec(
        "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", "16", "-S", "-nodefaults", "-display", "none",
        "-blockdev", node, "-device", "virtio-blk-pci,drive=d0,id=vd0", "-qmp", f"unix:{qmp},server=on,wait=off",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        monitor = await _connect(qmp)
        yield Machine(monitor, disk)
        await monitor.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture
def handler() -> Recorder:
    return Recorder()


@pytest.fixture
def server(tmp_path: Path, handler: Recorder) -> Iterator[NbdServer]:
    server = NbdServer(tmp_path / "d0.sock", "d0", SIZE, handler)
    handler.answer = server.reply
    server.start()
    yield server
    server.close()


async def wait_in_flight(server: NbdServer, count: int) -> None:
    for _ in range(1000):
        if server.in_flight() == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{server.in_flight()} requests in flight, not {count}")


async def test_each_guest_write_arrives_with_its_exact_bytes(
    machine: Machine, server: NbdServer, handler: Recorder, tmp_path: Path
) -> None:
    await machine.mirror(tmp_path / "d0.sock")
    await machine.guest("write -P 0x5a 513 700")
    await machine.guest(f"write -P 0xa5 {SIZE - 1} 1")
    await machine.guest("write -P 0x11 65536 1M")
    assert [call[0:1] + call[2:] for call in handler.calls] == [
        ("write", 513, b"\x5a" * 700),
        ("write", SIZE - 1, b"\xa5"),
        ("write", 65536, b"\x11" * 1024 * 1024),
    ]


async def test_zeroes_keep_their_space_and_neither_discards_nor_flushes_arrive(
    machine: Machine, server: NbdServer, handler: Recorder, tmp_path: Path
) -> None:
    await machine.mirror(tmp_path / "d0.sock")
    await machine.guest("write -z 8192 5000")
    await machine.guest("write -z -u 16384 4096")
    await machine.guest("discard 0 65536")
    await machine.guest("flush")
    await machine.guest("write -f -P 1 0 512")
    assert [call[0:1] + call[2:] for call in handler.calls] == [
        ("zero", 8192, 5000, False),
        ("zero", 16384, 4096, False),
        ("write", 0, b"\x01" * 512),
    ]


async def test_a_write_is_on_the_source_before_it_arrives(
    machine: Machine, server: NbdServer, handler: Recorder, tmp_path: Path
) -> None:
    """The one premise under which a mirrored write may be ignored while its region is not copied."""
    source: list[bytes] = []

    def look_then_answer(cookie: int) -> None:
        with machine.disk.open("rb") as file:
            source.append(os.pread(file.fileno(), 4096, 4096))
        server.reply(cookie)

    handler.answer = look_then_answer
    await machine.mirror(tmp_path / "d0.sock")
    for value in range(1, 20):
        await machine.guest(f"write -P {value} 4096 4096")
    assert source == [bytes([value]) * 4096 for value in range(1, 20)]


async def test_overlapping_writes_wait_for_each_other_and_others_do_not(
    machine: Machine, server: NbdServer, handler: Recorder, tmp_path: Path
) -> None:
    handler.answer = None
    await machine.mirror(tmp_path / "d0.sock")
    await machine.guest("aio_write -P 1 0 4096")
    await machine.guest("aio_write -P 2 0 4096")
    await machine.guest("aio_write -P 3 8192 4096")
    await wait_in_flight(server, 2)
    arrived = {call[2]: call[1] for call in handler.calls}
    assert sorted(arrived, key=str) == [0, 8192]
    cookies = [call[1] for call in handler.calls]
    assert server.reply_many(int(str(cookie)) for cookie in cookies) == 2
    await wait_in_flight(server, 1)
    assert handler.calls[2][2:] == (0, b"\x02" * 4096)
    server.reply(int(str(handler.calls[2][1])))


async def test_a_soft_cancel_completes_and_says_goodbye(
    machine: Machine, server: NbdServer, handler: Recorder, tmp_path: Path
) -> None:
    await machine.mirror(tmp_path / "d0.sock")
    await machine.guest("write -P 1 0 4096")
    since = machine.monitor.sequence
    await machine.monitor.execute("block-job-cancel", {"device": "j0"})
    assert "error" not in (await machine.job_ended(since)).data
    await machine.delete_target()
    assert await asyncio.to_thread(handler.ended.wait, 10)
    assert handler.reasons == ["QEMU disconnected"]
    await machine.guest("write -P 2 0 4096")
    assert len(handler.calls) == 1


async def test_closing_fails_the_job_and_all_in_flight_together_and_qemu_lives(
    machine: Machine, server: NbdServer, handler: Recorder, tmp_path: Path
) -> None:
    handler.answer = None
    await machine.mirror(tmp_path / "d0.sock")
    for number in range(8):
        await machine.guest(f"aio_write -P 7 {number * 65536} 4096")
    await wait_in_flight(server, 8)
    since = machine.monitor.sequence
    server.close()
    assert (await machine.job_ended(since)).data["error"] == "Input/output error"
    await machine.delete_target()
    await machine.guest("aio_flush")
    assert await machine.status() == "prelaunch"
    await machine.guest("write -P 8 0 4096")
    with machine.disk.open("rb") as file:
        assert file.read(4096) == b"\x08" * 4096
        assert os.pread(file.fileno(), 4096, 7 * 65536) == b"\x07" * 4096
