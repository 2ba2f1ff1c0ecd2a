"""The one process that holds a lab: `python -m kvmove.lab.supervisor --spec JSON`.

Invariant: the lab exists while this process does. It takes everything down when told (`stop`, SIGTERM, SIGINT) and
when its standard input closes, so also when its owner was killed, unless the owner said `stay` before. Killed itself,
its hosts die with it; only files stay, and the next lab of that name sweeps them.

One line of JSON on standard output says `ready` or carries the problem.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from typing import Any

import click

from kvmove.errors import InvalidInput, KvmoveError, NotFound
from kvmove.lab import control, network, preparation, processes
from kvmove.lab.commands import LabFailed
from kvmove.lab.folders import WORLD, LabFolders
from kvmove.lab.host import HostProcess
from kvmove.lab.leftovers import claim, sweep
from kvmove.lab.loops import LoopDevices
from kvmove.lab.spec import LOCAL, LabSpec


class Supervisor:
    """Builds the lab of `spec`, answers for it, takes it down."""

    def __init__(self, spec: LabSpec) -> None:
        self.spec = spec
        self.folders = LabFolders(spec.name)
        self.hosts = {name: self._host(name) for name in (WORLD, *spec.hosts)}
        self.loops = LoopDevices()
        self.stop_asked = asyncio.Event()
        self._changing = asyncio.Lock()
        self._claim: socket.socket | None = None
        self._server: asyncio.Server | None = None

    def claim_name(self) -> None:
        """Be the only supervisor of this name, until this process ends.

        :raise Busy: the lab is up already.
        """
        self._claim = claim(self.spec.name)

    async def start(self) -> None:
        """Sweep what a former lab of this name left, build this one, start its services.

        :raise KvmoveError: it could not be built; call `stop` to remove what was.
        """
        await asyncio.to_thread(sweep, self.folders)
        await asyncio.to_thread(preparation.prepare, self.spec, self.folders, self.loops)
        await asyncio.to_thread(self.folders.record.write_text, str(os.getpid()))
        async with asyncio.TaskGroup() as starting:
            for host in self.hosts.values():
                starting.create_task(host.start())
        delayed = self.spec.rtt_ms > 0
        await asyncio.to_thread(network.build_world, self.hosts[WORLD].init, len(self.spec.nics), delayed=delayed)
        for index, name in enumerate(self.spec.hosts):
            await self._furnish(index, name)
        self._server = await control.serve(self.folders.control, self.handle)
        for host in self.hosts.values():
            host.begin()

    async def stop(self) -> None:
        """Take everything down and remove it; returns when nothing is left.

        :raise LabFailed: something would not go.
        """
        if self._server is not None:
            self._server.close()
        hosts = [self.hosts[name] for name in self.spec.hosts]
        async with asyncio.TaskGroup() as ending:
            for host in hosts:
                ending.create_task(host.stop())
        await self.hosts[WORLD].stop()
        self.loops.close()
        await asyncio.to_thread(sweep, self.folders)

    async def handle(self, question: dict[str, Any]) -> control.Answer:
        """Answer one question of the control socket: `status`, `stop`, `hold`, `release`, `power-off`, `power-on`."""
        command = question["command"]
        if command == "stop":
            self.stop_asked.set()
            return {"stopping": True}
        if command != "status":
            await self._change(command, self._known_host(question["host"]), question)
        return self.status()

    def status(self) -> control.Answer:
        """What runs, in words fit for JSON. Process numbers are the machine's for inits, the host's for services."""
        return {"spec": self.spec.model_dump(mode="json"), "hosts": {n: _describe(h) for n, h in self.hosts.items()}}

    async def _change(self, command: str, host: HostProcess, question: dict[str, Any]) -> None:
        async with self._changing:
            if command == "power-off":
                await host.kill()
            elif command == "power-on":
                await self._power_on(host)
            elif command in {"hold", "release"}:
                (host.hold if command == "hold" else host.release)(question["service"])
            else:
                raise InvalidInput(f"a lab's supervisor does not know {command!r}")

    async def _power_on(self, host: HostProcess) -> None:
        if host.running:
            return
        await host.start()
        await self._furnish(self.spec.hosts.index(host.name), host.name)
        host.begin()

    async def _furnish(self, index: int, name: str) -> None:
        world, host = self.hosts[WORLD].init, self.hosts[name].init
        await asyncio.to_thread(network.plug_in, world, host, index, self.spec.nics, delayed=self.spec.rtt_ms > 0)
        datastore = processes.outside(host, self.folders.datastore(LOCAL))
        await asyncio.to_thread(preparation.identify_datastore, datastore)

    def _known_host(self, name: str) -> HostProcess:
        if name not in self.spec.hosts and name != WORLD:
            raise NotFound(f"the lab has no host {name}", hint=f"it has {', '.join(self.spec.hosts)}")
        return self.hosts[name]

    def _host(self, name: str) -> HostProcess:
        log = self.folders.host(name) / "init.log"
        return HostProcess(self.spec.name, name, preparation.host_config(self.folders, name), log)


def _describe(host: HostProcess) -> dict[str, Any]:
    services = {name: vars(state) for name, state in host.services.items()}
    return {"running": host.running, "init": host.init, "services": services}


async def supervise(spec: LabSpec) -> None:
    """Hold the lab from start to end.

    :raise KvmoveError: it could not be built, or not be removed.
    """
    supervisor = Supervisor(spec)
    supervisor.claim_name()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop_asked.set)
    loop.add_reader(0, _hear_owner, supervisor)
    try:
        # Never cut short: a thread of the building would go on while its work is swept away.
        await supervisor.start()
        _tell({"ready": True})
        await supervisor.stop_asked.wait()
    finally:
        await supervisor.stop()


def _hear_owner(supervisor: Supervisor) -> None:
    """The owner's last word: `stay` lets the lab go on by itself, its end ends the lab."""
    asyncio.get_running_loop().remove_reader(0)
    if os.read(0, 64):
        with supervisor.folders.supervisor_log.open("ab") as log:
            os.dup2(log.fileno(), 2)
    else:
        supervisor.stop_asked.set()


def _tell(message: dict[str, Any]) -> None:
    """The one line on standard output; then the pipe is given up, so that nobody has to keep reading it."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _first_problem(error: BaseException) -> KvmoveError:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, KvmoveError):
        return error
    return LabFailed(f"the lab could not be built: {error!r}")


@click.command()
@click.option("--spec", required=True, help="the lab, as JSON")
def main(spec: str) -> None:
    """Hold one lab."""
    try:
        asyncio.run(supervise(LabSpec.model_validate_json(spec)))
    except Exception as error:
        _tell({"problem": _first_problem(error).problem()})
        raise


if __name__ == "__main__":
    main()
