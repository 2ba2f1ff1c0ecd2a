"""The manager as a process: its doors, its locks, its end."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from kvmove.client.manager import ManagerClient
from kvmove.errors import Busy, NotFound, Unreachable
from kvmove.manager.config import ManagerConfig
from kvmove.manager.daemon import serve
from kvmove.manager.listeners import hold, tcp_door, unix_door
from kvmove.manager.task_book import TaskBook
from kvmove.manager.task_store import TaskStore
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.identity import Identity, Role
from kvmove.registry.remote import RemoteRegistry
from tests.support import samples
from tests.support.eventually import eventually


def configuration(folder: Path) -> ManagerConfig:
    """A manager on a free port, with one host that is not there."""
    create_authority(folder / "authority")
    issue(folder / "authority", Identity(Role.MANAGER, "manager"), folder / "pki")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return ManagerConfig.model_validate(
        {
            "listen": f"127.0.0.1:{port}",
            "socket": folder / "run" / "manager.sock",
            "state": folder / "state",
            "pki": folder / "pki",
            "host": [{"name": "h1", "control": "127.0.0.1:1"}],
        }
    )


@asynccontextmanager
async def serving(config: ManagerConfig) -> AsyncIterator[ManagerClient]:
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(serve(config, stop, ready))
    opened = asyncio.create_task(ready.wait())
    await asyncio.wait({running, opened}, return_when=asyncio.FIRST_COMPLETED)
    opened.cancel()
    async with ManagerClient(f"unix:{config.socket}") as client:
        try:
            if not running.done():
                yield client
        finally:
            stop.set()
            await running


async def test_it_serves_and_says_why_a_host_does_not_answer(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with hold(config.state):
        async with serving(config) as client:
            (host,) = await client.hosts()
            assert not host.reachable
            assert "agent h1 at 127.0.0.1:1 gave no answer" in host.reason
    assert not config.socket.exists()
    assert config.state.stat().st_mode & 0o777 == 0o700


async def test_it_serves_while_etcd_is_down_and_says_what_it_lacks(tmp_path: Path) -> None:
    """Its start waits for nothing: moves under way are followed, and the registry answers when etcd is back."""
    etcd = {"engine": "etcd", "endpoints": ["http://127.0.0.1:1"]}
    config = ManagerConfig.model_validate(configuration(tmp_path).model_dump(by_alias=True) | {"registry": etcd})
    issue(tmp_path / "authority", Identity(Role.AGENT, "h1"), tmp_path / "h1")
    with hold(config.state):
        async with serving(config) as client:
            assert (await client.health())["status"] == "ok"
            registry = RemoteRegistry(f"https://{config.listen}", tmp_path / "h1")
            with pytest.raises(Unreachable, match=r"etcd gave no answer .*127\.0\.0\.1:1: Connection refused"):
                await registry.get(UUID(int=1))
            await registry.close()
    assert not (config.state / "registry.db").exists()


async def test_a_watcher_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with hold(config.state):
        book = await TaskBook(TaskStore(config.state / "tasks.db")).open()
        await book.add(samples.task())
        await book.close()
        async with serving(config) as client:
            states = client.watch_task(samples.MOVE_ID)
            first = await anext(states)
    assert not first.ended_state
    assert [task async for task in states] == []


async def test_without_certificates_it_does_not_start(tmp_path: Path) -> None:
    config = configuration(tmp_path).model_copy(update={"pki": tmp_path / "none"})
    with hold(config.state), pytest.raises(NotFound, match=r"ca\.pem is missing"):
        async with serving(config):
            pass
    assert not config.socket.exists()


def test_two_managers_do_not_share_a_state_folder(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(Busy, match="another manager uses"), hold(tmp_path):
        pass
    with hold(tmp_path):
        pass


def test_a_socket_that_another_listens_on_is_not_taken_away(tmp_path: Path) -> None:
    with unix_door(tmp_path / "s"), pytest.raises(Busy, match="another program listens"):
        unix_door(tmp_path / "s")
    assert (tmp_path / "s").is_socket()


def test_a_socket_that_a_dead_manager_left_is_replaced(tmp_path: Path) -> None:
    unix_door(tmp_path / "s").close()
    assert (tmp_path / "s").is_socket()
    with unix_door(tmp_path / "s"):
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600


def test_a_file_in_the_sockets_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(Busy, match="cannot listen on"):
        unix_door(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "mine"


def test_an_address_that_is_taken_is_told(tmp_path: Path) -> None:
    with tcp_door("127.0.0.1:0") as first, pytest.raises(Busy, match="Address already in use"):
        tcp_door(f"127.0.0.1:{first.getsockname()[1]}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_as_a_process_it_ends_in_order_when_told(tmp_path: Path, number: signal.Signals) -> None:
    config = configuration(tmp_path)
    file = tmp_path / "manager.toml"
    file.write_text(
        f'listen = "{config.listen}"\nsocket = "{config.socket}"\nstate = "{config.state}"\npki = "{config.pki}"\n'
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kvmove", "manager", "--config", str(file), stderr=asyncio.subprocess.PIPE
    )
    await eventually(config.socket.exists)
    async with ManagerClient(f"unix:{config.socket}") as client:
        assert (await client.health())["status"] == "ok"
    process.send_signal(number)
    _, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    assert b"Traceback" not in log
    assert not config.socket.exists()
