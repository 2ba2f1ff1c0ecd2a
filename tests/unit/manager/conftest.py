"""A manager's application on real doors (Unix socket and mutual TLS) over agents that do as they are told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from fastapi import FastAPI

from kvmove.client.manager import ManagerClient
from kvmove.logs import RecentLines
from kvmove.manager.access import Access
from kvmove.manager.access_store import AccessStore
from kvmove.manager.app import Parts, create_app
from kvmove.manager.balance_settings import BalanceSettings
from kvmove.manager.certificates import Certificates
from kvmove.manager.follow import Follower
from kvmove.manager.host_book import HostBook
from kvmove.manager.inventory import Inventory
from kvmove.manager.listeners import Listener, tcp_door, unix_door
from kvmove.manager.moves import Moves
from kvmove.manager.observed import observe
from kvmove.manager.placement_parts import placement_parts
from kvmove.manager.sessions import Sessions
from kvmove.manager.task_book import TaskBook
from kvmove.manager.task_store import TaskStore
from kvmove.manager.users import Users, WrongSecrets
from kvmove.model.access import NewUser, UserRole, UserToken
from kvmove.model.move import HostRef
from kvmove.pki.authority import create_authority, issue
from kvmove.pki.contexts import client_context, trusting_context
from kvmove.pki.identity import Identity, Role
from kvmove.registry.sqlite import SqliteRegistry
from tests.support import samples
from tests.support.fake_agent import FakeAgent
from tests.support.samples import H1, H2, WEB1

PARTIES = (
    Identity(Role.MANAGER, "manager"),
    Identity(Role.VIEWER, "vic"),
    Identity(Role.OPERATOR, "ann"),
    Identity(Role.ADMIN, "ada"),
    Identity(Role.AGENT, "h1"),
)


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
        self.app: FastAPI
        self.access: Access
        self.balance = BalanceSettings()

    def agent_of(self, ref: HostRef) -> FakeAgent:
        return self.agents.setdefault(ref.name, FakeAgent(ref))

    async def open(self, stack: AsyncExitStack, wrong: WrongSecrets | None = None) -> None:
        create_authority(self.pki / "authority")
        for party in PARTIES:
            issue(self.pki / "authority", party, self.pki / party.name)
        registry = self.registry = SqliteRegistry(self.folder / "registry.db")
        stack.push_async_callback(registry.close)
        await registry.claim(WEB1, "h1")
        self.book = await TaskBook(TaskStore(self.folder / "tasks.db")).open()
        stack.push_async_callback(self.book.close)
        inventory = Inventory([H1, H2], self.agent_of)
        self.moves = Moves(inventory, registry, self.book, Follower(inventory, registry, self.book))
        stack.push_async_callback(self.moves.close)
        self.placement = placement_parts(self.balance, self.folder, inventory, self.moves, self.book)
        stack.push_async_callback(self.placement.close)
        observed = observe(inventory, self.book, RecentLines(), self.pki / "manager")
        tcp = stack.enter_context(tcp_door("127.0.0.1:0"))
        self.address = f"127.0.0.1:{tcp.getsockname()[1]}"
        self.url = f"https://{self.address}"
        store = AccessStore(self.folder / "access.db")
        stack.callback(store.close)
        self.certificates = Certificates(self.pki / "authority", self.pki / "manager")
        hosts = HostBook(store, inventory, self.certificates, self.address)
        users = Users(store)
        self.access = Access(users, hosts, self.certificates, Sessions(store, users), wrong or WrongSecrets())
        self.inventory = inventory
        parts = Parts(inventory, registry, self.book, self.moves, self.access, self.placement, observed)
        app = self.app = create_app(parts)
        unix = stack.enter_context(unix_door(self.socket))
        listeners = [Listener(app, tcp, self.pki / "manager"), Listener(app, unix, None)]
        serving = asyncio.gather(*(listener.run_until_stopped() for listener in listeners))
        stack.push_async_callback(lambda: serving)
        for listener in listeners:
            stack.callback(listener.stop)
            await listener.listening.wait()
        stack.callback(self.book.end_watches)
        stack.callback(observed.events.close)

    async def new_user(self, role: Role) -> UserToken:
        """A user of that role, who is called as it is."""
        return await self.access.users.add(NewUser(name=f"{role}-user", role=UserRole(role)))

    async def status(self, method: str, path: str, name: str | None, *, token: str = "") -> int:
        """What `name` (None: nobody, who shows no certificate) is answered over TLS."""
        tls = client_context(self.pki / name) if name else trusting_context(self.authority())
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, self.url + path, ssl=tls, server_hostname="manager.kvmove", headers=headers
            ) as response,
        ):
            return response.status

    async def shown_certificate(self) -> x509.Certificate:
        """What the manager shows to whoever connects now."""
        host, _, port = self.address.rpartition(":")
        tls = trusting_context(self.authority())
        _, writer = await asyncio.open_connection(host, int(port), ssl=tls, server_hostname="manager.kvmove")
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
        return x509.load_der_x509_certificate(shown)

    def authority(self) -> str:
        return (self.pki / "authority" / "ca.pem").read_text()

    def client(self, name: str = "") -> ManagerClient:
        """The manager as `name` sees it over TLS, or as root on the socket does."""
        return ManagerClient(self.url, self.pki / name) if name else ManagerClient(f"unix:{self.socket}")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path)
    async with AsyncExitStack() as stack:
        await served.open(stack)
        yield served
