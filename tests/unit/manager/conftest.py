"""A manager's application on real doors (Unix socket and mutual TLS) over agents that do as they are told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kvmove.client.manager import ManagerClient
from kvmove.manager.app import Parts, create_app
from kvmove.manager.follow import Follower
from kvmove.manager.inventory import Inventory
from kvmove.manager.listeners import Listener, tcp_door, unix_door
from kvmove.manager.moves import Moves
from kvmove.manager.task_book import TaskBook
from kvmove.manager.task_store import TaskStore
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.identity import Identity, Role
from kvmove.registry.sqlite import SqliteRegistry
from tests.support import samples
from tests.support.fake_agent import FakeAgent
from tests.support.samples import H1, H2, WEB1

PARTIES = (Identity(Role.MANAGER, "manager"), Identity(Role.OPERATOR, "ann"), Identity(Role.AGENT, "h1"))


class Served:
    """A manager that serves on `socket` and on `url`; `pki` holds a folder for each of `PARTIES`, by its name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pki = folder / "pki"
        self.socket = folder / "manager.sock"
        self.agents = {ref.name: FakeAgent(ref) for ref in (H1, H2)}
        self.h1, self.h2 = self.agents.values()
        self.h1.status_of_vms = [samples.vm()]
        self.url = ""

    async def open(self, stack: AsyncExitStack) -> None:
        create_authority(self.pki / "authority")
        for party in PARTIES:
            issue(self.pki / "authority", party, self.pki / party.name)
        registry = SqliteRegistry(self.folder / "registry.db")
        stack.push_async_callback(registry.close)
        await registry.claim(WEB1, "h1")
        self.book = await TaskBook(TaskStore(self.folder / "tasks.db")).open()
        stack.push_async_callback(self.book.close)
        inventory = Inventory([H1, H2], lambda ref: self.agents[ref.name])
        self.moves = Moves(inventory, registry, self.book, Follower(inventory, registry, self.book))
        stack.push_async_callback(self.moves.close)
        app = create_app(Parts(inventory, registry, self.book, self.moves))
        tcp = stack.enter_context(tcp_door("127.0.0.1:0"))
        self.url = f"https://127.0.0.1:{tcp.getsockname()[1]}"
        unix = stack.enter_context(unix_door(self.socket))
        listeners = [Listener(app, tcp, self.pki / "manager"), Listener(app, unix, None)]
        serving = asyncio.gather(*(listener.run_until_stopped() for listener in listeners))
        stack.push_async_callback(lambda: serving)
        for listener in listeners:
            stack.callback(listener.stop)
            await listener.listening.wait()
        stack.callback(self.book.end_watches)

    def client(self, name: str = "") -> ManagerClient:
        """The manager as `name` sees it over TLS, or as root on the socket does."""
        return ManagerClient(self.url, self.pki / name) if name else ManagerClient(f"unix:{self.socket}")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path)
    async with AsyncExitStack() as stack:
        await served.open(stack)
        yield served
