"""The agent as a process: puts the parts of a host together, adopts what runs, takes up what was unfinished, serves.

Its end, wished or not, touches no guest: QEMUs are no children that die with it, and the next start adopts them.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from aiohttp import web

from kvmove.agent.access import refuse_revoked
from kvmove.agent.api import AgentApi, ApiParts
from kvmove.agent.config import AgentConfig, load_config
from kvmove.agent.host_facts import HostFacts, migration_nics
from kvmove.agent.host_load import LoadMeter
from kvmove.agent.known_datastores import open_datastores
from kvmove.agent.launcher import Launcher
from kvmove.agent.metrics import AgentMetrics
from kvmove.agent.moves import Moves
from kvmove.agent.probes import Probes
from kvmove.agent.samples import Samples
from kvmove.agent.vm_store import VmStore
from kvmove.agent.vms import VmManager
from kvmove.client.renewal import Renewal
from kvmove.disk.datastore import Datastore
from kvmove.errors import Busy, NotAllowed
from kvmove.logs import RecentLines, set_up_logging
from kvmove.migration.destination import incoming_socket
from kvmove.migration.host_parts import HostParts
from kvmove.migration.journal import Journal
from kvmove.model.host import HostInfo
from kvmove.move_log import MoveLog
from kvmove.mover.move_terms import MoverSettings
from kvmove.pki.contexts import LiveContext, live_server_context, server_context
from kvmove.registry.remote import RemoteRegistry
from kvmove.transport.listener import DataListener

log = logging.getLogger(__name__)

SWITCH_INTERVAL = 0.0002
"""Seconds that a thread may keep the interpreter while another wants it (5 ms by default): a guest's write waits
for the mirror's thread, and that may wait for as many others as there are streams."""

WORKERS = 64
"""Threads for blocking calls: each move has some that wait for seconds, and none may keep a guest that stands still
waiting for a thread."""

BUDGET_SHARE = 0.75
"""Of the write deadline: the dispatcher releases guests this early, so that the deadline itself never cuts a mirror."""


def run(config_path: Path) -> None:
    """Run the agent of the configuration at `config_path` until SIGTERM or SIGINT.

    :raise InvalidInput: the configuration is not valid. :raise Busy: another agent runs here, or an address is taken.
    :raise NotFound, NotAllowed: a certificate, or a datastore that was never there, is missing or broken.
    :raise CheckFailed: no QEMU here.
    """
    config = load_config(config_path)
    recent = RecentLines()
    set_up_logging(recent=recent)
    sys.setswitchinterval(SWITCH_INTERVAL)
    with _only_one(config.state):
        asyncio.run(_serve(config, recent))


@contextmanager
def _only_one(state: Path) -> Iterator[None]:
    """Hold the state folder: two agents on one host would both act on its journal."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Busy(f"Another agent uses {state}.", hint="Stop it, or give this one its own `state` folder.") from error
    finally:
        os.close(descriptor)


async def _serve(config: AgentConfig, recent: RecentLines) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WORKERS, "blocking"))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        kept = MoveLog(config.name)
        logging.getLogger("kvmove").addHandler(kept)
        stack.callback(logging.getLogger("kvmove").removeHandler, kept)
        facts = await asyncio.to_thread(HostFacts, config)
        datastores = open_datastores(config.datastores, config.state)
        registry = RemoteRegistry(config.manager, config.pki)
        stack.push_async_callback(registry.close)
        launcher = Launcher(config.run, config.state, datastores, facts.accelerator)
        vms = VmManager(config.name, VmStore(config.state), launcher, registry)
        stack.push_async_callback(vms.close)
        listener = _data_listener(config)
        stack.callback(listener.close)
        parts = _parts(config, vms, datastores, registry, listener)
        moves = Moves(parts)
        await vms.recover()
        moves.recover()
        stack.push_async_callback(moves.close)

        probes = Probes(config, facts.accelerator)
        stack.callback(probes.close)
        meter, measuring = LoadMeter(config.load), asyncio.Lock()

        async def host_info() -> HostInfo:
            info = await asyncio.to_thread(facts.info, list(datastores.values()))
            async with measuring:
                return info.model_copy(update={"load": await asyncio.to_thread(meter.measure, info.datastores)})

        metrics = AgentMetrics(config.name, config.pki)
        api = ApiParts(vms, moves, host_info, kept, probes, Samples(parts), metrics, recent)
        await _open_door(config, AgentApi(api), stack)
        house = asyncio.create_task(moves.keep_house(), name="housekeeping")
        stack.callback(house.cancel)
        await _renew_certificates(config, stack)
        log.info("agent %s serves on %s", config.name, config.control)
        await stop.wait()
        log.info("agent %s ends; its guests go on", config.name)
        await moves.close()  # while the door is open, which takes its time to close: the manager hears what is undone


def _parts(
    config: AgentConfig,
    vms: VmManager,
    datastores: dict[str, Datastore],
    registry: RemoteRegistry,
    listener: DataListener,
) -> HostParts:
    deadline = config.move.write_deadline_ms / 1000
    run = config.run / "moves"
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    incoming = Journal(config.state, "incoming")
    waiting = {incoming_socket(run, journal.path.stem) for journal in incoming.unfinished()}
    for leftover in set(run.iterdir()) - waiting:  # a QEMU that waits for memory listens still
        leftover.unlink()  # sockets of an agent that died
    return HostParts(
        name=config.name,
        vms=vms,
        datastores=datastores,
        registry=registry,
        listener=listener,
        outgoing=Journal(config.state, "outgoing"),
        incoming=incoming,
        pki=config.pki,
        run=run,
        mover=MoverSettings(
            forward_buffer=config.move.forward_buffer,
            budget=deadline * BUDGET_SHARE,
            write_deadline=deadline,
            give_up=config.move.give_up_seconds,
            streams_per_route=config.move.streams_per_nic,
        ),
        keep_source=config.move.keep_source_seconds,
    )


def _data_listener(config: AgentConfig) -> DataListener:
    """Take moves on every migration NIC that is up.

    :raise Busy: an address is taken.
    """
    addresses = [nic.address.partition("/")[0] for nic in migration_nics(config.nics)]
    try:
        listener = DataListener(addresses, config.data_port, LiveContext(config.pki, server_context))
    except OSError as error:
        raise Busy(f"Port {config.data_port} of {', '.join(addresses)} cannot be opened: {error}.") from error
    listener.start()
    return listener


async def _renew_certificates(config: AgentConfig, stack: AsyncExitStack) -> None:
    renewal = Renewal(config.pki, config.manager)
    stack.push_async_callback(renewal.close)
    renewing = asyncio.create_task(renewal.run(), name="certificates")
    stack.callback(renewing.cancel)


async def _open_door(config: AgentConfig, api: AgentApi, stack: AsyncExitStack) -> None:
    application = api.application()
    application.middlewares.append(refuse_revoked(config.pki))
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    host, _, port = config.control.rpartition(":")
    try:
        await web.TCPSite(runner, host, int(port), ssl_context=live_server_context(config.pki)).start()
    except OSError as error:
        raise Busy(f"{config.control} cannot be opened: {error}.", hint="Is another agent running?") from error
    except ValueError as error:
        raise NotAllowed(f"{config.control} is not an address and a port") from error
