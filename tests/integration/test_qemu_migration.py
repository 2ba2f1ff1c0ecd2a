"""QEMU's migration between two QEMUs on this machine: each premise of the switchover, with a guest that counts.

The count lives in the guest's memory alone and is written to a disk that is not moved here. So a destination that
writes a higher count than the source's last one has the memory as it was at the switchover.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvmove.errors import CheckFailed, MoveFailed, QemuError, Unreachable
from kvmove.qemu import run_control
from kvmove.qemu.features import find_features
from kvmove.qemu.migration import Migration, MigrationParameters, Status, cut_connection
from tests.support.boot_guest import highest_count
from tests.support.migration_relay import MigrationRelay
from tests.support.real_qemu import PATIENCE, Machine, machine, pair, until, until_it_writes, until_state

FAST = MigrationParameters(max_bandwidth=0, downtime_limit_ms=300)
SLOW = MigrationParameters(max_bandwidth=64 * 1024, downtime_limit_ms=1)
Pair = tuple[Machine, Machine]


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Pair]:
    async with pair(tmp_path) as (source, destination):
        await run_control.cont(source.qemu.monitor)
        await until_it_writes(source.disk)
        yield source, destination


async def listening(
    hosts: Pair, at: Path, *, channels: int = 0, parameters: MigrationParameters = FAST
) -> tuple[Migration, Migration]:
    """Both sides set up, the destination listening."""
    source, destination = await hosts[0].migration(), await hosts[1].migration()
    await destination.configure_destination(channels)
    await source.configure_source(channels, parameters)
    await destination.incoming(f"unix:{at}")
    return source, destination


async def at_switchover(hosts: Pair, at: Path, *, channels: int = 0) -> tuple[Migration, Migration]:
    """The source stands at pre-switchover."""
    source, destination = await listening(hosts, at, channels=channels)
    await source.migrate(f"unix:{at}")
    await source.wait_status([Status.PRE_SWITCHOVER], timeout=PATIENCE)
    return source, destination


async def handed_over(hosts: Pair, at: Path) -> None:
    """The memory is at the destination, nobody runs."""
    source, destination = await at_switchover(hosts, at)
    await source.continue_switchover()
    await source.wait_status([Status.COMPLETED], timeout=PATIENCE)
    await destination.wait_status([Status.COMPLETED], timeout=PATIENCE)


async def stands_still(guest: Machine) -> None:
    before = highest_count(guest.disk)
    await asyncio.sleep(0.3)
    assert highest_count(guest.disk) == before


async def test_a_guest_goes_over_with_its_memory_through_a_relay_with_multifd(hosts: Pair, tmp_path: Path) -> None:
    source, destination = hosts
    async with MigrationRelay(tmp_path / "relay", tmp_path / "in") as relay:
        there, here = await listening(hosts, tmp_path / "in", channels=2)
        await there.migrate(f"unix:{tmp_path}/relay")
        await there.wait_status([Status.PRE_SWITCHOVER], timeout=PATIENCE)
        last = highest_count(source.disk)
        await there.continue_switchover()
        info = await there.wait_status([Status.COMPLETED], timeout=PATIENCE)
        await here.wait_status([Status.COMPLETED], timeout=PATIENCE)
        assert relay.channels == 3
    assert info.ram_total > 64 << 20
    assert info.downtime_ms > 0
    assert await source.run_state() == run_control.POSTMIGRATE
    assert await destination.run_state() == "paused"
    await stands_still(destination)
    await run_control.cont(destination.qemu.monitor)
    await run_control.announce_self(destination.qemu.monitor)
    assert await until_it_writes(destination.disk) > last
    await stands_still(source)


async def test_the_source_waits_at_the_switchover_with_the_guest_stopped(hosts: Pair, tmp_path: Path) -> None:
    since = hosts[0].qemu.monitor.sequence
    source, _ = await at_switchover(hosts, tmp_path / "in")
    await hosts[0].qemu.monitor.wait_event("STOP", timeout=1, since=since)
    await stands_still(hosts[0])
    assert (await source.info()).status is Status.PRE_SWITCHOVER
    assert await hosts[0].run_state() == "finish-migrate"


async def test_a_cancel_at_the_switchover_lets_the_guest_run_on(hosts: Pair, tmp_path: Path) -> None:
    source, _ = await at_switchover(hosts, tmp_path / "in")
    assert await source.cancel() is Status.CANCELLED
    await until_state(hosts[0], "running")
    await until_it_writes(hosts[0].disk)
    await asyncio.wait_for(hosts[1].qemu.process.wait_ended(), PATIENCE)


async def test_a_cancel_in_the_copy_does_not_stop_the_guest(hosts: Pair, tmp_path: Path) -> None:
    source, _ = await listening(hosts, tmp_path / "in", parameters=SLOW)
    since = hosts[0].qemu.monitor.sequence
    await source.migrate(f"unix:{tmp_path}/in")
    await source.wait_status([Status.ACTIVE], timeout=PATIENCE)
    assert await source.cancel() is Status.CANCELLED
    await until_it_writes(hosts[0].disk)
    with pytest.raises(Unreachable):
        await hosts[0].qemu.monitor.wait_event("STOP", timeout=0.05, since=since)


async def test_limits_can_be_changed_while_the_memory_is_copied(hosts: Pair, tmp_path: Path) -> None:
    source, _ = await listening(hosts, tmp_path / "in", parameters=SLOW)
    await source.migrate(f"unix:{tmp_path}/in")
    await source.wait_status([Status.ACTIVE], timeout=PATIENCE)
    with pytest.raises(MoveFailed, match="did not reach pre-switchover"):
        await source.wait_status([Status.PRE_SWITCHOVER], timeout=0.5)
    await source.set_parameters(FAST)
    await source.wait_status([Status.PRE_SWITCHOVER], timeout=PATIENCE)


async def test_a_source_after_the_hand_over_can_take_its_guest_back(hosts: Pair, tmp_path: Path) -> None:
    await handed_over(hosts, tmp_path / "in")
    await hosts[1].qemu.end()
    assert await hosts[0].run_state() == run_control.POSTMIGRATE
    await run_control.cont(hosts[0].qemu.monitor)
    assert await hosts[0].run_state() == "running"
    await until_it_writes(hosts[0].disk)


async def test_a_cancel_after_the_hand_over_says_that_it_came_too_late(hosts: Pair, tmp_path: Path) -> None:
    await handed_over(hosts, tmp_path / "in")
    source = await hosts[0].migration()
    assert await source.cancel() is Status.COMPLETED
    assert await hosts[0].run_state() == run_control.POSTMIGRATE


async def test_a_cancel_without_a_migration_does_nothing(hosts: Pair) -> None:
    assert await (await hosts[0].migration()).cancel() is Status.NONE
    await until_it_writes(hosts[0].disk)


async def test_a_destination_that_dies_at_the_switchover_is_not_noticed_but_a_cancel_helps(
    hosts: Pair, tmp_path: Path
) -> None:
    source, _ = await at_switchover(hosts, tmp_path / "in")
    await hosts[1].qemu.process.end()
    with pytest.raises(MoveFailed):
        await source.wait_status([Status.COMPLETED], timeout=0.5)
    assert await source.cancel() in (Status.CANCELLED, Status.FAILED)
    await until_state(hosts[0], "running")


async def test_a_destination_that_dies_before_the_rest_is_sent_lets_the_source_run_by_itself(
    hosts: Pair, tmp_path: Path
) -> None:
    source, _ = await at_switchover(hosts, tmp_path / "in")
    await hosts[1].qemu.process.end()
    await source.continue_switchover()
    with pytest.raises(MoveFailed, match="ended as failed"):
        await source.wait_status([Status.COMPLETED], timeout=PATIENCE)
    await until_state(hosts[0], "running")
    await until_it_writes(hosts[0].disk)


async def test_a_destination_that_hangs_after_the_switchover_can_be_cut_off(hosts: Pair, tmp_path: Path) -> None:
    source, _ = await at_switchover(hosts, tmp_path / "in")
    hosts[1].qemu.process.send_signal(signal.SIGSTOP)
    await source.continue_switchover()
    with pytest.raises(MoveFailed, match="did not reach"):
        await source.wait_status([Status.COMPLETED], timeout=0.5)
    assert await source.cancel() in (Status.CANCELLED, Status.FAILED)
    await until_state(hosts[0], "running")


async def test_a_stream_that_breaks_ends_the_destination_and_not_the_guest(hosts: Pair, tmp_path: Path) -> None:
    async with MigrationRelay(tmp_path / "relay", tmp_path / "in") as relay:
        source, _ = await listening(hosts, tmp_path / "in", parameters=SLOW)
        await source.migrate(f"unix:{tmp_path}/relay")
        await source.wait_status([Status.ACTIVE], timeout=PATIENCE)
        relay.cut()
        with pytest.raises(MoveFailed, match="ended as failed"):
            await source.wait_status([Status.PRE_SWITCHOVER], timeout=PATIENCE)
    await asyncio.wait_for(hosts[1].qemu.process.wait_ended(), PATIENCE)
    await until_it_writes(hosts[0].disk)


async def test_a_yank_ends_a_migration_whose_relay_does_not_move(hosts: Pair, tmp_path: Path) -> None:
    async with MigrationRelay(tmp_path / "relay", tmp_path / "in", stalled=True):
        source, _ = await listening(hosts, tmp_path / "in")
        await source.migrate(f"unix:{tmp_path}/relay")
        with pytest.raises(MoveFailed, match="did not reach"):
            await source.wait_status([Status.PRE_SWITCHOVER], timeout=0.5)
        await cut_connection(hosts[0].qemu.oob)
        with pytest.raises(MoveFailed, match="ended as failed"):
            await source.wait_status([Status.PRE_SWITCHOVER], timeout=PATIENCE)
    await until_it_writes(hosts[0].disk)


async def test_nobody_at_the_destination_fails_the_migration_and_not_the_guest(hosts: Pair, tmp_path: Path) -> None:
    source = await hosts[0].migration()
    await source.configure_source(0, FAST)
    with pytest.raises((QemuError, MoveFailed)):
        await source.migrate(f"unix:{tmp_path}/nobody")
        await source.wait_status([Status.PRE_SWITCHOVER], timeout=PATIENCE)
    await until_it_writes(hosts[0].disk)


async def test_a_disk_held_by_another_refuses_cont_and_a_second_try_succeeds(hosts: Pair, tmp_path: Path) -> None:
    await handed_over(hosts, tmp_path / "in")
    destination = hosts[1]
    holder = await asyncio.create_subprocess_exec(
        "qemu-nbd", "--format=raw", f"--socket={tmp_path}/holder", "--persistent", str(destination.disk)
    )
    try:
        await until((tmp_path / "holder").is_socket, "qemu-nbd listens")
        with pytest.raises(QemuError, match="lock"):
            await run_control.cont(destination.qemu.monitor)
        assert await destination.run_state() == "paused"
    finally:
        holder.terminate()
        await holder.wait()
    await run_control.cont(destination.qemu.monitor)
    assert await destination.run_state() == "running"


async def test_a_guest_can_go_back_and_forth(tmp_path: Path) -> None:
    async with pair(tmp_path) as (first, second):
        await run_control.cont(first.qemu.monitor)
        await until_it_writes(first.disk)
        await handed_over((first, second), tmp_path / "in1")
        await run_control.cont(second.qemu.monitor)
        last = await until_it_writes(second.disk)
        await first.qemu.end()
        async with machine(tmp_path / "s2", first.definition, incoming=True) as third:
            await handed_over((second, third), tmp_path / "in2")
            await run_control.cont(third.qemu.monitor)
            assert await until_it_writes(third.disk) > last


async def test_a_qemu_that_lacks_a_capability_is_refused_before_anything_is_set(hosts: Pair) -> None:
    features = await find_features(hosts[0].qemu.monitor)
    less = features._replace(capabilities=features.capabilities - {"pause-before-switchover"})
    with pytest.raises(CheckFailed, match="lacks pause-before-switchover"):
        await Migration(hosts[0].qemu.monitor, less).configure_source(2, FAST)
