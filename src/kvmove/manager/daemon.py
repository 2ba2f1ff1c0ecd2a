"""The manager as a process: puts the parts together, opens the doors, and closes all in order when told to end.

Its end touches no move: those go on between the agents, and the next start picks their tasks up again.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from kvmove.client.agent import AgentClient
from kvmove.logs import RecentLines, set_up_logging
from kvmove.manager.access import Access
from kvmove.manager.access_store import FILE, AccessStore
from kvmove.manager.app import Parts, create_app
from kvmove.manager.certificates import Certificates
from kvmove.manager.config import ManagerConfig, load_config
from kvmove.manager.follow import Follower
from kvmove.manager.host_book import HostBook
from kvmove.manager.inventory import Inventory
from kvmove.manager.listeners import Listener, hold, tcp_door, unix_door
from kvmove.manager.moves import Moves
from kvmove.manager.observed import observe
from kvmove.manager.ownership_news import keep_fresh
from kvmove.manager.placement_parts import placement_parts
from kvmove.manager.registry_engine import open_registry, open_slots
from kvmove.manager.sessions import Sessions
from kvmove.manager.task_book import TaskBook
from kvmove.manager.task_log import MANAGER
from kvmove.manager.task_store import TaskStore
from kvmove.manager.turns import Turns
from kvmove.manager.users import Users
from kvmove.move_log import MoveLog
from kvmove.registry.leased_slots import LeasedSlots

_LOG = logging.getLogger(__name__)


def run(config_path: Path) -> None:
    """Run the manager of the configuration at `config_path` until SIGTERM or SIGINT.

    :raise InvalidInput: the configuration is not valid.
    :raise Busy: another manager runs here, or an address is taken.
    :raise NotFound, NotAllowed: the certificates are missing or broken.
    """
    config = load_config(config_path)
    recent = RecentLines()
    set_up_logging(recent=recent)
    with hold(config.state):
        asyncio.run(_until_signal(config, recent))


async def _until_signal(config: ManagerConfig, recent: RecentLines) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(config, stop, asyncio.Event(), recent)


async def serve(
    config: ManagerConfig, stop: asyncio.Event, ready: asyncio.Event, recent: RecentLines | None = None
) -> None:
    """Serve until `stop` is set; `ready` is set once both doors are open. The caller holds the state folder."""
    async with AsyncExitStack() as stack:
        slots = open_slots(config.registry, config.state)
        stack.push_async_callback(slots.close)
        parts = await _parts(config, stack, slots, recent or RecentLines())
        app = create_app(parts)
        doors = [
            Listener(app, stack.enter_context(tcp_door(config.listen)), config.pki),
            Listener(app, stack.enter_context(_local(config.socket, stack)), None),
        ]
        parts.moves.resume()
        parts.placement.maintenance.resume()
        for name, work in _background(parts, slots).items():
            stack.callback(asyncio.create_task(work, name=name).cancel)
        async with asyncio.TaskGroup() as serving:
            for door in doors:
                serving.create_task(door.run_until_stopped())
            for door in doors:
                await door.listening.wait()
            _LOG.info("serving on %s and %s", config.listen, config.socket)
            ready.set()
            await stop.wait()
            _LOG.info("ending")
            parts.book.end_watches()
            parts.observed.events.close()
            for door in doors:
                door.stop()


def _background(parts: Parts, slots: LeasedSlots) -> dict[str, Coroutine[Any, Any, None]]:
    """What goes on as long as the manager serves."""
    return {
        "inventory": parts.inventory.run(),
        "admission slots": slots.run(),
        "ownership news": keep_fresh(parts.registry, parts.inventory),
        "certificates": parts.access.certificates.run(),
        "balancing": parts.placement.balancer.run(),
    }


async def _parts(config: ManagerConfig, stack: AsyncExitStack, slots: LeasedSlots, recent: RecentLines) -> Parts:
    """The parts, each closed when the stack is left, in reverse order."""
    registry = open_registry(config.registry, config.state)
    stack.push_async_callback(registry.close)
    book = await TaskBook(TaskStore(config.state / "tasks.db")).open()
    stack.push_async_callback(book.close)
    inventory = Inventory(config.hosts, lambda host: AgentClient(host, config.pki))
    stack.push_async_callback(inventory.close)
    kept = MoveLog(MANAGER)
    logging.getLogger("kvmove").addHandler(kept)
    stack.callback(logging.getLogger("kvmove").removeHandler, kept)
    turns = Turns(book, inventory, config.admission, slots=slots)
    moves = Moves(inventory, registry, book, Follower(inventory, registry, book), turns, kept)
    stack.push_async_callback(moves.close)
    placement = placement_parts(config.balance, config.state, inventory, moves, book, config.admission)
    stack.push_async_callback(placement.close)
    access, observed = _access(config, inventory, stack), observe(inventory, book, recent, config.pki)
    return Parts(inventory, registry, book, moves, access, placement, observed)


def _access(config: ManagerConfig, inventory: Inventory, stack: AsyncExitStack) -> Access:
    store = AccessStore(config.state / FILE)
    stack.callback(store.close)
    certificates = Certificates(config.authority, config.pki, timedelta(days=config.certificate_days))
    users = Users(store)
    hosts = HostBook(store, inventory, certificates, config.listen)
    return Access(users, hosts, certificates, Sessions(store, users))


def _local(path: Path, stack: AsyncExitStack) -> socket.socket:
    door = unix_door(path)
    stack.callback(path.unlink, missing_ok=True)
    return door
