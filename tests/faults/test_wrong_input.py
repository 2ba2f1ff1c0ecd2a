"""What an operator or a stranger gets wrong on a real lab: a clear error, a fitting exit code, and nothing changed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kvmove.lab import addresses
from kvmove.lab.lab_host import LabHost
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.identity import Identity, Role
from tests.support.eventually import eventually
from tests.support.fault_lab import BULK, VM, FaultLab

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

KNOCK = """
import socket, ssl, sys
address, port, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sock = socket.create_connection((address, port), 5)
sock.settimeout(10)
try:
    if folder:
        context = ssl.create_default_context(cafile=folder + "/ca.pem")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(folder + "/cert.pem", folder + "/key.pem")
        sock = context.wrap_socket(sock)
    sock.sendall(b"GET /v1/host HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" * 4)
    said = sock.recv(4096)
except (OSError, ssl.SSLError) as error:
    said = b""
print("told" if b"200 OK" in said or b"{" in said else "refused")
"""


async def knock(host: LabHost, door: tuple[str, int], certificate: Path | None) -> str:
    """What somebody on `host` gets from a port, in clear or with a certificate."""
    words = [sys.executable, "-c", KNOCK, door[0], str(door[1]), str(certificate or "")]
    return (await host.exec(words)).strip()


class Said(NamedTuple):
    code: int
    text: str


async def kvmove(faults: FaultLab, *words: str, stdin: str = "") -> Said:
    """What the command line answers to a person."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kvmove", "--server", f"unix:{faults.lab.folders.manager_socket}", *words,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate(stdin.encode())
    return Said(process.returncode or 0, said.decode())


@contextlib.asynccontextmanager
async def nothing_changes(faults: FaultLab) -> AsyncIterator[tuple[LabHost, LabHost]]:
    """Gives both ends; afterwards the guest runs where it ran, and the other host has nothing of it."""
    await faults.see_that_it_runs()
    source, destination = faults.ends()
    tasks = len(await faults.lab.manager.tasks())
    yield source, destination
    await eventually(lambda: VM.uuid in source.qemu_pids())
    assert VM.uuid not in destination.qemu_pids()
    assert not (destination.outside(faults.lab.folders.datastore()) / str(VM.uuid)).exists()
    assert len(await faults.lab.manager.tasks()) == tasks


async def test_an_unknown_vm_or_host_is_named(faults: FaultLab) -> None:
    async with nothing_changes(faults) as (_, destination):
        said = await kvmove(faults, "move", "nosuch", destination.name)
        assert said.code == 4
        assert "nosuch" in said.text
        said = await kvmove(faults, "move", VM.name, "h9")
        assert said.code == 4
        assert "h9" in said.text


async def test_a_move_to_where_the_vm_is_gets_refused(faults: FaultLab) -> None:
    async with nothing_changes(faults) as (source, _):
        said = await kvmove(faults, "move", VM.name, source.name)
        assert said.code == 3
        assert source.name in said.text


async def test_a_full_datastore_is_seen_before_anything_starts(faults: FaultLab) -> None:
    async with nothing_changes(faults) as (_, destination):
        store = destination.outside(faults.lab.folders.datastore())
        ballast = store / "ballast"
        with ballast.open("wb") as file:
            system = os.statvfs(store)
            os.posix_fallocate(file.fileno(), 0, system.f_bavail * system.f_frsize - VM.disk // 2)
        try:
            said = await kvmove(faults, "move", VM.name, destination.name)
        finally:
            ballast.unlink()
        assert said.code == 3
        assert "local" in said.text
        assert destination.name in said.text


@pytest.mark.parametrize("name", ["../x", "a/b", "", "x" * 200])
async def test_a_name_that_could_leave_a_folder_is_refused(faults: FaultLab, name: str) -> None:
    definition = f'name = "{name}"\nuuid = "8d0f9b1a-6f0e-4f7e-9d6a-0f4a3f3e2b11"\nmemory = "64MiB"\n'
    async with nothing_changes(faults) as (source, _):
        said = await kvmove(faults, "vm", "define", "-", "--host", source.name, stdin=definition)
        assert said.code == 2
        assert "name" in said.text
        assert (await kvmove(faults, "move", name or "../", "h2")).code in (2, 4)


async def test_a_vm_that_moves_is_busy(faults: FaultLab) -> None:
    async with faults.move(hold=("source-prepared",)) as move:
        await faults.until(move, "source-prepared")
        said = await kvmove(faults, "move", VM.name, move.destination.name)
        assert said.code == 5
        assert move.task_id in said.text or "moves" in said.text
        assert (await kvmove(faults, "vm", "delete", VM.name, "--yes")).code in (2, 5)
        assert await faults.cancel(move) == 0
        faults.let_go(move)


async def test_an_unreachable_host_is_said_to_be(faults: FaultLab) -> None:
    async with nothing_changes(faults) as (_, destination):
        await faults.lab.hold(destination.name)
        try:
            said = await kvmove(faults, "move", VM.name, destination.name)
        finally:
            await faults.lab.release(destination.name)
        await _wait_until_reached(faults)
        assert said.code in (3, 9)
        assert destination.name in said.text
        assert "answer" in said.text or "reach" in said.text


async def _wait_until_reached(faults: FaultLab) -> None:
    async with asyncio.timeout(60):
        while True:
            if await faults.answers():
                return
            await asyncio.sleep(0.2)


async def test_strangers_are_told_nothing_on_any_port(faults: FaultLab, tmp_path: Path) -> None:
    """A plain TCP client and one with another authority's certificate, while a move is under way."""
    create_authority(tmp_path / "ca")
    issue(tmp_path / "ca", Identity(Role.MANAGER, "manager"), tmp_path / "foreign")
    async with faults.move() as move:
        await faults.until(move, BULK)
        doors = await _doors(faults)
        own = faults.lab.folders.pki("manager")
        assert await knock(move.source, doors[0], own) == "told", "who may ask is answered"
        for door in doors:
            for folder in (None, tmp_path / "foreign"):
                assert await knock(move.source, door, folder) == "refused", f"{door} answers a stranger"
    assert move.code == 0, "the move went on"


async def _doors(faults: FaultLab) -> list[tuple[str, int]]:
    doors = []
    for status in await faults.lab.manager.hosts():
        assert status.info is not None
        address, _, port = status.info.control.partition(":")
        doors.append((address, int(port)))
        doors += [(nic.address.partition("/")[0], status.info.data_port) for nic in status.info.nics]
    return [*doors, (addresses.world_management(), 7440)]
