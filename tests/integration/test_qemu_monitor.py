"""The monitor and the process of a real QEMU: found again, never hanging us, ended for certain."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kvmove.errors import Busy, CheckFailed, MoveFailed, QemuError, Unreachable
from kvmove.qemu import run_control
from kvmove.qemu.accelerator import guest_makes_progress, probe_rom
from kvmove.qemu.command_line import VmPaths, VmResources, command_line
from kvmove.qemu.features import find_features
from kvmove.qemu.instance import Instance
from kvmove.qemu.monitor import Monitor
from kvmove.qemu.process import QemuProcess
from tests.support.boot_guest import DISK_SIZE, write_boot_disk
from tests.support.real_qemu import PATIENCE, adopted, definition, discard, machine, until_it_writes, until_state

HANGING_ROM = bytes(64 * 1024 - 16) + b"\xeb\xfe" + bytes(14)  # jmp to itself


def process_exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_a_guest_stands_still_until_cont_and_again_after_stop(tmp_path: Path) -> None:
    async with machine(tmp_path / "s") as source:
        assert await source.run_state() == "prelaunch"
        await run_control.cont(source.qemu.monitor)
        assert await source.run_state() == "running"
        await until_it_writes(source.disk)
        await run_control.stop(source.qemu.monitor)
        assert await source.run_state() == "paused"


async def test_qemu_says_why_it_refuses(tmp_path: Path) -> None:
    async with machine(tmp_path / "s") as source:
        with pytest.raises(QemuError, match="has not been found") as caught:
            await source.qemu.monitor.execute("no-such-command")
        assert caught.value.error_class == "CommandNotFound"


async def test_a_second_client_of_a_monitor_is_told_in_time(tmp_path: Path) -> None:
    async with machine(tmp_path / "s") as source:
        with pytest.raises(Unreachable, match="does not greet"):
            await Monitor.connect(source.paths.monitor, timeout=0.3)


async def test_a_frozen_qemu_hangs_nobody(tmp_path: Path) -> None:
    async with machine(tmp_path / "s") as source:
        source.qemu.process.send_signal(signal.SIGSTOP)
        with pytest.raises(Unreachable, match="did not answer"):
            await source.qemu.monitor.execute("query-status", timeout=0.3)
        source.qemu.process.send_signal(signal.SIGCONT)
        assert await source.run_state() == "prelaunch"


async def test_what_this_qemu_can_do_is_read_from_its_schema(tmp_path: Path) -> None:
    async with machine(tmp_path / "s") as source:
        features = await find_features(source.qemu.monitor)
        assert features.version.count(".") == 2
        assert {"blockdev-mirror", "transaction", "yank", "migrate-continue"} <= features.commands
        assert {"multifd", "return-path", "events", "pause-before-switchover"} <= features.capabilities
        assert {"max-bandwidth", "downtime-limit", "multifd-channels"} <= features.parameters


async def test_a_shutdown_of_the_guest_leaves_qemu_there(tmp_path: Path) -> None:
    async with machine(tmp_path / "s") as source:
        write_boot_disk(source.disk, powers_off=True)
        since = source.qemu.monitor.sequence
        await run_control.cont(source.qemu.monitor)
        event = await source.qemu.monitor.wait_event("SHUTDOWN", timeout=PATIENCE, since=since)
        assert event.data == {"guest": True, "reason": "guest-shutdown"}
        await until_state(source, run_control.SHUTDOWN)
        with pytest.raises(QemuError, match="Resetting the Virtual Machine is required"):
            await run_control.cont(source.qemu.monitor)
        await run_control.reset(source.qemu.monitor)
        await until_state(source, "prelaunch")


async def test_quit_ends_qemu_and_leaves_no_zombie(tmp_path: Path) -> None:
    async with machine(tmp_path / "s") as source:
        pid = source.qemu.process.pid
        await source.qemu.end()
        assert not process_exists(pid)


async def test_a_qemu_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    async with machine(tmp_path / "s") as source:
        pid = source.qemu.process.pid
        source.qemu.process.send_signal(signal.SIGSTOP)
        await source.qemu.process.end(patience=5)
        assert not process_exists(pid)


async def test_the_end_of_qemu_is_noticed_by_all_who_wait(tmp_path: Path) -> None:
    async with machine(tmp_path / "s") as source:
        waiting = [asyncio.create_task(source.qemu.process.wait_ended()) for _ in range(3)]
        await asyncio.sleep(0)
        source.qemu.process.send_signal(signal.SIGKILL)
        await asyncio.wait_for(asyncio.gather(*waiting), 20)
        await asyncio.wait_for(source.qemu.monitor.wait_lost(), 20)
        assert not source.qemu.process.is_alive()


async def test_a_qemu_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    vm = definition()
    paths = VmPaths(tmp_path / "s", tmp_path / "s")
    arguments = command_line(vm, "tcg", paths, VmResources({"disk0": tmp_path / "absent.raw"}, {}))
    with pytest.raises(MoveFailed, match=r"Could not open.*absent"):
        await Instance.start(vm, arguments, paths)
    assert QemuProcess.adopt(paths.pidfile, lambda arguments: True) is None


async def test_a_host_without_qemu_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="no-such-qemu") as caught:
        QemuProcess.start(["no-such-qemu"], tmp_path / "log")
    assert "Install" in caught.value.hint


async def test_a_second_qemu_of_a_vm_is_refused_and_the_first_one_unharmed(tmp_path: Path) -> None:
    async with machine(tmp_path / "s") as source:
        with pytest.raises(Busy):
            await Instance.start(source.definition, source.arguments, source.paths)
        assert await source.run_state() == "prelaunch"


async def test_after_a_restart_of_ours_the_guest_is_found_and_has_run_on(tmp_path: Path) -> None:
    async with machine(tmp_path / "s") as source:
        await run_control.cont(source.qemu.monitor)
        await until_it_writes(source.disk)
        identity = source.qemu.process.identity
        await source.qemu.disconnect()
        await until_it_writes(source.disk)
        again = await Instance.adopt(source.definition, source.paths)
        assert again is not None
        try:
            assert again.process.identity == identity
            assert await run_control.run_state(again.monitor) == "running"
            assert again.disk_nodes == {"disk0": "disk0"}
        finally:
            await discard(again)


async def test_a_qemu_outlives_the_program_that_started_it(tmp_path: Path) -> None:
    vm = definition()
    paths = VmPaths(tmp_path / "s", tmp_path / "s")
    paths.folder.mkdir()
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(DISK_SIZE))
    arguments = command_line(vm, "tcg", paths, VmResources({"disk0": disk}, {}))
    program = f"""
        import os, signal
        from pathlib import Path
        from kvmove.qemu.process import QemuProcess
        QemuProcess.start({arguments!r}, Path({str(paths.qemu_log)!r}))
        os.killpg(os.getpgrp(), signal.SIGKILL)
    """
    starter = [sys.executable, "-c", textwrap.dedent(program)]
    ended = await asyncio.to_thread(subprocess.run, starter, start_new_session=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    found = await adopted(vm, paths)
    try:
        assert await run_control.run_state(found.monitor) == "prelaunch"
    finally:
        await discard(found)


def test_a_recycled_pid_is_not_taken_for_qemu(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(f"{os.getpid()}\n")
    assert QemuProcess.adopt(tmp_path / "pid", lambda arguments: "qemu" in arguments[0]) is None


@pytest.mark.parametrize("content", [None, "", "nonsense", "999999999"])
def test_a_pidfile_that_names_nobody_is_nobody(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "pid").write_text(content)
    assert QemuProcess.adopt(tmp_path / "pid", lambda arguments: True) is None


def test_the_probe_sees_progress_and_its_absence() -> None:
    assert guest_makes_progress("tcg", probe_rom(), timeout=20)
    assert not guest_makes_progress("tcg", HANGING_ROM, timeout=1)


def test_a_probe_without_qemu_shows_no_progress() -> None:
    assert not guest_makes_progress("tcg", probe_rom(), binary="no-such-qemu")
