"""The lab itself: hosts that are apart, networks between them, and nothing left behind, whoever dies."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from kvmove.errors import Busy, Unreachable
from kvmove.lab import leftovers, network, processes
from kvmove.lab.commands import LabFailed, in_network
from kvmove.lab.folders import WORLD, LabFolders
from kvmove.lab.lab import Lab
from kvmove.lab.spec import LabSpec
from tests.support.labs import SMALL, lab_name, tidy_lab

pytestmark = pytest.mark.lab

LISTENER = """
import socket, sys
listener = socket.create_server((sys.argv[1], 17450))
print('listening', flush=True)
peer, _ = listener.accept()
print(peer.recv(1) or b'closed', flush=True)
"""
DIALLER = """
import socket, sys
peer = socket.create_connection((sys.argv[1], 17450), timeout=5)
print('connected', flush=True)
peer.settimeout(20)
try:
    print(peer.recv(1) or b'closed', flush=True)
except ConnectionError as error:
    print(type(error).__name__, flush=True)
"""
OWNER = """
import asyncio, sys
from kvmove.lab.lab import Lab
from kvmove.lab.spec import LabSpec
async def main():
    async with Lab.start(LabSpec.model_validate_json(sys.argv[1])):
        print('up', flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


def bare(purpose: str, **changes: object) -> LabSpec:
    return LabSpec.model_validate({"name": lab_name(purpose), "datastore": SMALL, "bare": True, **changes})


async def eventually(holds: Callable[[], bool], within: float = 20.0) -> bool:
    def watch() -> bool:
        deadline = time.monotonic() + within
        while not holds() and time.monotonic() < deadline:
            time.sleep(0.02)
        return holds()

    return await asyncio.to_thread(watch)


@asynccontextmanager
async def python_in(host_init: int, code: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    argv = in_network(host_init, [sys.executable, "-c", code, *arguments])
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


def supervisors(lab: str) -> list[int]:
    return [pid for pid in processes.all_pids() if any(f'"name":"{lab}"' in word for word in processes.argv(pid))]


@contextlib.contextmanager
def no_new_devices() -> Iterator[None]:
    before = set(network.devices(os.getpid()))
    yield
    assert set(network.devices(os.getpid())) <= before


async def test_a_port_that_the_kernel_takes_away_meanwhile_is_no_fault() -> None:
    """The kernel takes a dead host's network apart at its leisure, also between a look at it and the next step."""
    async with tidy_lab(bare("unplug")) as lab:
        world = lab.world.init
        port = next(device for device in network.devices(world) if device.endswith("mig0") and device.startswith("p0"))
        network.unplug(world, [port, port, "p0-never"])
        assert port not in network.devices(world)
        with pytest.raises(LabFailed, match="not supported"):
            network.unplug(world, ["lo"])


async def test_hosts_meet_on_every_migration_nic_and_leave_nothing() -> None:
    with no_new_devices():
        async with tidy_lab(bare("meet")) as lab:
            first, second = lab.hosts
            for nic in range(2):
                async with python_in(second.init, LISTENER, f"10.91.{nic}.12") as listener:
                    assert await line_of(listener) == "listening"
                    async with python_in(first.init, DIALLER, f"10.91.{nic}.12") as dialler:
                        assert await line_of(dialler) == "connected"


async def test_a_host_has_its_own_name_disks_processes_and_devices() -> None:
    async with tidy_lab(bare("own", hosts=("a1", "b1", "c1"))) as lab:
        names = [(await host.exec(["hostname"])).strip() for host in lab.hosts]
        assert names == ["a1", "b1", "c1"]
        (lab.host("a1").datastore / "file").write_text("mine")
        assert not (lab.host("b1").datastore / "file").exists()
        assert len({tuple(host.pids()) for host in lab.hosts}) == 3
        assert set(await lab.host("c1").nic_counters()) == {"lo", "mgmt0", "mig0", "mig1", "uplink0", "br0"}


async def test_nics_are_shaped_as_asked_and_can_be_changed() -> None:
    async with tidy_lab(bare("shape", nics=(125_000_000, 0))) as lab:
        host = lab.host("h1")

        async def shaping(nic: str) -> str:
            return await host.exec(["tc", "qdisc", "show", "dev", nic])

        assert "tbf" in await shaping("mig0")
        assert "rate 1Gbit" in await shaping("mig0")
        assert "tbf" not in await shaping("mig1")
        await host.set_rate("mig0", 0)
        await host.set_rate("mig1", 12_500_000)
        assert "tbf" not in await shaping("mig0")
        assert "rate 100Mbit" in await shaping("mig1")


async def test_cutting_streams_breaks_connections_of_the_data_port_at_both_ends() -> None:
    async with tidy_lab(bare("cut")) as lab:
        first, second = lab.hosts
        async with (
            python_in(second.init, LISTENER, "10.91.0.12") as listener,
            contextlib.AsyncExitStack() as stack,
        ):
            assert await line_of(listener) == "listening"
            dialler = await stack.enter_async_context(python_in(first.init, DIALLER, "10.91.0.12"))
            assert await line_of(dialler) == "connected"
            assert await first.cut_streams() == 1
            assert await line_of(dialler) == "ConnectionAbortedError"


async def test_a_nic_that_is_down_carries_nothing_until_it_is_up() -> None:
    async with tidy_lab(bare("nic")) as lab:
        first, second = lab.hosts
        async with python_in(second.init, LISTENER, "10.91.0.12") as listener:
            assert await line_of(listener) == "listening"
            await first.nic_down("mig0")
            with pytest.raises(LabFailed):
                await first.exec(["ip", "route", "get", "10.91.0.12", "oif", "mig0"])
            await first.nic_up("mig0")
            async with python_in(first.init, DIALLER, "10.91.0.12") as dialler:
                assert await line_of(dialler) == "connected"


async def test_a_host_that_lost_power_comes_back_with_its_disk_and_addresses() -> None:
    async with tidy_lab(bare("power")) as lab:
        host = lab.host("h1")
        (host.datastore / "file").write_text("kept")
        await _second_reaches_first(lab)  # from here on it has the first's MAC address in its cache
        before = host.init
        await lab.power_off("h1")
        assert await eventually(lambda: not processes.alive(before))  # the kernel takes its memory back at its leisure
        assert await eventually(lambda: host.pids() == [])
        await lab.power_on("h1")
        assert (host.datastore / "file").read_text() == "kept"
        await _second_reaches_first(lab)


async def _second_reaches_first(lab: Lab) -> None:
    async with python_in(lab.host("h1").init, LISTENER, "10.91.1.11") as listener:
        assert await line_of(listener) == "listening"
        async with python_in(lab.host("h2").init, DIALLER, "10.91.1.11") as dialler:
            assert await line_of(dialler) == "connected"


async def test_a_service_that_dies_is_started_again_unless_it_is_held() -> None:
    async with tidy_lab(bare("service")) as lab:

        def recorder() -> int:
            found = [pid for pid in lab.world.pids() if "kvmove.lab.guest.recorder" in processes.argv(pid)]
            return found[0] if found else 0

        assert await eventually(lambda: recorder() != 0)
        first = recorder()
        os.kill(first, signal.SIGKILL)
        assert await eventually(lambda: recorder() not in {0, first})
        await lab.hold(WORLD, "recorder")
        assert await eventually(lambda: recorder() == 0)
        await asyncio.sleep(0.5)
        assert recorder() == 0
        await lab.release(WORLD, "recorder")
        assert await eventually(lambda: recorder() != 0)


async def test_a_service_that_is_released_while_it_ends_is_started_again() -> None:
    async with tidy_lab(bare("released")) as lab:

        def recorder() -> int:
            found = [pid for pid in lab.world.pids() if "kvmove.lab.guest.recorder" in processes.argv(pid)]
            return found[0] if found else 0

        assert await eventually(lambda: recorder() != 0)
        first = recorder()
        os.kill(first, signal.SIGSTOP)  # it cannot end before it was released
        await lab.hold(WORLD, "recorder")
        await lab.release(WORLD, "recorder")
        os.kill(first, signal.SIGCONT)
        assert await eventually(lambda: recorder() not in {0, first})


async def test_orphans_of_a_host_are_reaped() -> None:
    async with tidy_lab(bare("orphan")) as lab:
        host = lab.host("h1")
        await host.exec(["setsid", "--fork", "sleep", "0.1"])
        assert await eventually(lambda: all(processes.argv(pid)[:1] != ["sleep"] for pid in host.pids()))
        zombies = [pid for pid in processes.children(host.init) if not processes.alive(pid)]
        assert zombies == []


async def test_two_labs_do_not_meet() -> None:
    async with (
        tidy_lab(bare("one")) as one,
        tidy_lab(bare("two")) as two,
        python_in(one.host("h2").init, LISTENER, "10.91.0.12") as listener,
    ):
        assert await line_of(listener) == "listening"
        async with python_in(two.host("h1").init, DIALLER, "10.91.0.12") as dialler:
            assert await line_of(dialler) == ""


async def test_a_name_can_be_used_once_at_a_time() -> None:
    spec = bare("twice")
    async with tidy_lab(spec) as lab:
        with pytest.raises(Busy):
            async with Lab.start(spec):
                pass
        assert lab.host("h1").pids() != []


async def test_an_owner_that_is_killed_leaves_nothing() -> None:
    spec = bare("owner")
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, spec.model_dump_json(), stdout=asyncio.subprocess.PIPE
    )
    assert await line_of(owner) == "up"
    folders = LabFolders(spec.name)
    supervisor = leftovers.supervisor_of(folders)
    assert leftovers.find(folders) != []
    owner.kill()
    await owner.communicate()
    assert await eventually(lambda: leftovers.find(folders) == [])
    assert await eventually(lambda: not processes.alive(supervisor))


@pytest.mark.parametrize("after", [0.3, 0.5, 0.7, 0.9])
async def test_an_owner_that_is_killed_while_the_lab_is_built_leaves_nothing(after: float) -> None:
    spec = bare("early")
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, spec.model_dump_json(), stdout=asyncio.subprocess.PIPE
    )
    await asyncio.sleep(after)
    owner.kill()
    await owner.communicate()
    assert await eventually(lambda: not supervisors(spec.name))
    assert leftovers.find(LabFolders(spec.name)) == []


async def test_a_supervisor_that_is_killed_takes_its_hosts_along_and_its_files_are_swept() -> None:
    spec = bare("stale")
    lab = await Lab.up(spec)
    os.kill(lab.supervisor, signal.SIGKILL)
    assert await eventually(lambda: not any(host.pids() for host in (*lab.hosts, lab.world)))
    assert [left for left in lab.leftovers() if not left.startswith(("folder", "loop"))] == []
    async with tidy_lab(spec) as again:
        assert (await again.host("h1").exec(["hostname"])).strip() == "h1"
    assert lab.leftovers() == []


async def test_a_lab_that_stays_is_found_by_its_name_until_it_is_taken_down() -> None:
    spec = bare("stay")
    await Lab.up(spec)
    lab = await Lab.attach(spec.name)
    assert lab.spec == spec
    await Lab.down(spec.name)
    assert lab.leftovers() == []
    with pytest.raises(Unreachable):
        await Lab.attach(spec.name)
    await Lab.down(spec.name)


async def test_a_lab_that_cannot_be_built_says_why_and_leaves_nothing() -> None:
    spec = bare("fails")
    with socket.socket(socket.AF_UNIX) as blocker, pytest.raises(Busy):
        blocker.bind(f"\0kvmove-lab-{spec.name}")
        await Lab.up(spec)
    assert leftovers.find(LabFolders(spec.name)) == []


async def test_what_a_killed_run_left_is_swept_by_the_next_and_a_living_one_is_not() -> None:
    purpose = f"t{os.getpid() % 100_000}"
    dead, living = (bare("x").model_copy(update={"name": f"{purpose}-{number}"}) for number in (1, 2))
    left = await Lab.up(dead)
    os.kill(left.supervisor, signal.SIGKILL)
    assert await eventually(lambda: not any(host.pids() for host in (*left.hosts, left.world)))
    async with tidy_lab(living) as lab, Lab.passing(purpose, bare("x")) as passing:
        assert left.leftovers() == []
        assert lab.host("h1").pids() != []
        assert passing.spec.name == f"{purpose}-{os.getpid()}"
