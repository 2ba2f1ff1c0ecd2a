"""QEMU's guest agent in a real guest: Debian's own program on an ext4 that the guest has mounted.

The host makes the file system with a file in it; the guest removes the file at its start. Only a trim brings the space
back to the host.
"""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kvmove.errors import Unreachable
from kvmove.lab.guest.agent_image import build_with_agent
from kvmove.lab.guest.image import GuestImage, build
from kvmove.lab.guest.options import GuestOptions, Mode, serial_trouble
from kvmove.model.vm import BootDefinition, DiskDefinition, VmDefinition
from kvmove.qemu import guest_agent, run_control
from kvmove.qemu.command_line import VmPaths, VmResources, command_line
from kvmove.qemu.features import find_features
from kvmove.qemu.guest_agent import connected, trim_guest
from kvmove.qemu.instance import Instance
from kvmove.qemu.migration import Migration, MigrationParameters, Status
from kvmove.units import MIB
from tests.support.moving_guest import GUEST
from tests.support.real_qemu import PATIENCE, definition, discard, until

pytestmark = pytest.mark.timeout(240)

DATA = 96 * MIB
BALLAST = 64 * MIB


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return build_with_agent(build(GUEST))


def guest(image: GuestImage) -> VmDefinition:
    """A guest with an agent; its second disk has the file system."""
    boot = BootDefinition(
        kernel=str(image.kernel.resolve()),
        initrd=str(image.initrd.resolve()),
        command_line=GuestOptions(mode=Mode.IDLE, ram_mib=8).command_line(),
    )
    disks = tuple(DiskDefinition(name=name, datastore="ds", size=size) for name, size in (("a", MIB), ("b", DATA)))
    return definition().model_copy(update={"memory": 192 * MIB, "boot": boot, "disks": disks, "guest_agent": True})


def make_disks(folder: Path) -> dict[str, Path]:
    """An empty disk, and one with an ext4 that holds `ballast`."""
    content = folder / "content"
    content.mkdir()
    with (content / "ballast").open("wb") as ballast:
        for number in range(BALLAST // MIB):
            ballast.write(bytes([number + 1]) * MIB)
    disks = {name: folder / f"{name}.raw" for name in ("a", "b")}
    for file, size in zip(disks.values(), (MIB, DATA), strict=True):
        with file.open("wb") as disk:
            disk.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-d", content, disks["b"]], check=True)
    return disks


def taken(disk: Path) -> int:
    """The bytes of the host's storage that a disk takes."""
    return disk.stat().st_blocks * 512


@asynccontextmanager
async def qemu(
    vm: VmDefinition, folder: Path, disks: dict[str, Path], *, incoming: bool = False
) -> AsyncIterator[Instance]:
    paths = VmPaths(folder, folder)
    arguments = command_line(vm, "tcg", paths, VmResources(disks, {}), incoming=incoming)
    instance = await Instance.start(vm, arguments, paths)
    try:
        yield instance
    finally:
        await discard(instance)


async def agent_runs(folder: Path) -> None:
    """The guest with its log there has removed the file and started the agent."""
    log = folder / "serial.log"
    await until(lambda: "ledger: the guest agent starts" in log.read_text(), "the agent is started")
    await until(lambda: log.read_text().count("ledger: t=") >= 2, "the guest lives")


async def migrate(source: Instance, destination: Instance, at: Path) -> None:
    """Memory goes over; both use the same disks, as in a host move."""
    out = Migration(source.monitor, await find_features(source.monitor))
    into = Migration(destination.monitor, await find_features(destination.monitor))
    await into.configure_destination(0)
    await out.configure_source(0, MigrationParameters(max_bandwidth=0, downtime_limit_ms=500))
    await into.incoming(f"unix:{at}")
    await out.migrate(f"unix:{at}")
    await out.wait_status([Status.PRE_SWITCHOVER], timeout=PATIENCE)
    await out.continue_switchover()
    await out.wait_status([Status.COMPLETED], timeout=PATIENCE)
    await into.wait_status([Status.COMPLETED], timeout=PATIENCE)
    await run_control.cont(destination.monitor)


async def test_a_trim_in_a_guest_that_has_moved_shrinks_the_disk(tmp_path: Path, image: GuestImage) -> None:
    vm, disks = guest(image), make_disks(tmp_path)
    async with qemu(vm, tmp_path / "s", disks) as source:
        await run_control.cont(source.monitor)
        await agent_runs(tmp_path / "s")
        assert taken(disks["b"]) > BALLAST, "a file that was removed takes its space still"
        async with qemu(vm, tmp_path / "d", disks, incoming=True) as destination:
            await migrate(source, destination, tmp_path / "in")
            assert await trim_guest(destination) == "the guest has trimmed 1 file system"
            assert taken(disks["b"]) < BALLAST // 4
            assert await trim_guest(destination) == "the guest has trimmed 1 file system", "it can be asked again"
    assert serial_trouble((tmp_path / "s" / "serial.log").read_text()) == []
    assert serial_trouble((tmp_path / "d" / "serial.log").read_text()) == []


async def test_a_trim_while_a_mirror_is_on_is_lost_for_good(tmp_path: Path, image: GuestImage) -> None:
    """A premise: QEMU 7.2's mirror drops discards, and ext4 does not repeat what it believes to be trimmed."""
    vm, disks = guest(image), make_disks(tmp_path)
    async with qemu(vm, tmp_path / "s", disks) as source:
        await run_control.cont(source.monitor)
        await agent_runs(tmp_path / "s")
        nothing = {"driver": "null-co", "node-name": "target", "size": DATA, "read-zeroes": True}
        await source.monitor.execute("blockdev-add", nothing)
        mirror = {"job-id": "m", "device": source.disk_nodes["b"], "target": "target", "filter-node-name": "filter"}
        await source.monitor.execute("blockdev-mirror", mirror | {"sync": "none", "copy-mode": "write-blocking"})
        assert await trim_guest(source) == "the guest has trimmed 1 file system"
        assert taken(disks["b"]) > BALLAST
        since = source.monitor.sequence
        await source.monitor.execute("block-job-cancel", {"device": "m"})
        await source.monitor.wait_event("BLOCK_JOB_COMPLETED", timeout=PATIENCE, since=since)
        assert await trim_guest(source) == "the guest has trimmed 1 file system"
        assert taken(disks["b"]) > BALLAST


async def test_what_an_earlier_asker_left_in_the_port_is_thrown_away(tmp_path: Path, image: GuestImage) -> None:
    vm, disks = guest(image), make_disks(tmp_path)
    async with qemu(vm, tmp_path / "s", disks) as source:
        await run_control.cont(source.monitor)
        await agent_runs(tmp_path / "s")
        assert source.agent_socket is not None
        async with connected(source.agent_socket) as agent:
            await agent.ping()
        _, writer = await asyncio.open_unix_connection(source.agent_socket)
        writer.write(b'{"execute": "guest-get-time"}\n{"execute": "guest-')  # asked, cut off, and not waited for
        await writer.drain()
        writer.close()
        async with connected(source.agent_socket) as agent:
            await agent.ping()
            known = await agent.commands()
        assert known["guest-fstrim"] is True
        assert known["guest-ping"] is True


async def test_a_guest_without_an_agent_is_given_up_in_time(
    tmp_path: Path, image: GuestImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_agent, "SYNC_SECONDS", 0.5)
    async with qemu(guest(image), tmp_path / "s", make_disks(tmp_path)) as source:  # not let run
        said = await trim_guest(source)
        assert said == "the guest was not trimmed: no agent answers in the guest within 0.5 s"
    with pytest.raises(Unreachable, match="cannot be reached"):
        async with connected(tmp_path / "s" / "agent.sock"):
            pass
