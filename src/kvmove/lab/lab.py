"""A lab for programs: `async with Lab.start(LabSpec()) as lab`. Tests, demo and soak use it, the command line too.

It talks to the lab's supervisor for what the supervisor holds (hosts, services) and looks at the machine itself for
the rest. Leaving the `with` takes the lab down; a killed owner takes it down as well.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kvmove.client.manager import ManagerClient
from kvmove.errors import NotFound, Unreachable
from kvmove.lab import control, launch, leftovers
from kvmove.lab.commands import LabFailed
from kvmove.lab.folders import WORLD, LabFolders
from kvmove.lab.lab_host import LabHost
from kvmove.lab.spec import LabSpec, passing

READY_WITHIN = 40.0


class Lab:
    """A lab that is up. Made by `start` (owned: ends with the `with`), `up` (stays) or `attach` (someone else's)."""

    def __init__(self, spec: LabSpec, supervisor: int) -> None:
        self.spec = spec
        self.folders = LabFolders(spec.name)
        self.supervisor = supervisor
        self._hosts: dict[str, LabHost] = {}
        self._manager: ManagerClient | None = None

    @classmethod
    @asynccontextmanager
    async def start(cls, spec: LabSpec) -> AsyncIterator["Lab"]:
        """Build a lab and hold it for the length of the `with`.

        :raise Busy: a lab of that name is up.
        :raise LabFailed: it could not be built, or something of it would not go.
        """
        async with launch.owned_supervisor(spec):
            lab = await cls.attach(spec.name)
            try:
                await lab.ready()
                yield lab
            finally:
                await lab.close()

    @classmethod
    @asynccontextmanager
    async def passing(cls, purpose: str, spec: LabSpec) -> AsyncIterator["Lab"]:
        """The same under a name of this process's own; what a killed run for that purpose left is swept first.

        :raise LabFailed: it could not be built, or something of it would not go.
        """
        await asyncio.to_thread(leftovers.sweep_stale, f"{purpose}-*")
        async with cls.start(passing(purpose, spec)) as lab:
            yield lab

    @classmethod
    async def up(cls, spec: LabSpec) -> "Lab":
        """Build a lab that outlives this process, until `down`.

        :raise Busy: a lab of that name is up.
        :raise LabFailed: it could not be built, or is not ready in time; nothing of it is left.
        """
        await launch.detached_supervisor(spec)
        lab = await cls.attach(spec.name)
        try:
            await lab.ready()
        except BaseException:
            await lab.close()
            await cls.down(spec.name)
            raise
        return lab

    @classmethod
    async def attach(cls, name: str) -> "Lab":
        """Use the lab of that name, whoever holds it.

        :raise Unreachable: no such lab is up.
        """
        folders = LabFolders(name)
        answer = await control.ask(folders.control, "status")
        lab = cls(LabSpec.model_validate(answer["spec"]), leftovers.supervisor_of(folders))
        lab._take_in(answer)
        return lab

    @staticmethod
    async def down(name: str) -> None:
        """Take the lab of that name down, or sweep what a killed one left; nothing there is fine.

        :raise Busy: it is being built at this moment.
        :raise LabFailed: something of it would not go.
        """
        folders = LabFolders(name)
        await asyncio.to_thread(launch.end_supervisor, leftovers.supervisor_of(folders), name)
        with contextlib.closing(leftovers.claim(name)):
            await asyncio.to_thread(leftovers.sweep, folders)

    def host(self, name: str) -> LabHost:
        """The host of that name; `world` is the namespace outside all hosts.

        :raise NotFound: the lab has none of that name.
        """
        if name not in self._hosts:
            raise NotFound(f"the lab {self.spec.name} has no host {name}", hint=f"it has {', '.join(self.spec.hosts)}")
        return self._hosts[name]

    @property
    def hosts(self) -> list[LabHost]:
        """The hosts, without the world."""
        return [self._hosts[name] for name in self.spec.hosts]

    @property
    def world(self) -> LabHost:
        return self._hosts[WORLD]

    @property
    def manager(self) -> ManagerClient:
        """The lab's manager, through its Unix socket; closed by `close`."""
        if self._manager is None:
            self._manager = ManagerClient(f"unix:{self.folders.manager_socket}")
        return self._manager

    async def close(self) -> None:
        """Close the connection to the manager. The lab goes on."""
        if self._manager is not None:
            await self._manager.close()
            self._manager = None

    async def ready(self) -> None:
        """Wait until the manager reaches every host; a bare lab has none and is ready at once.

        :raise LabFailed: that takes too long; what each host lacks is named.
        """
        if self.spec.bare:
            return
        deadline = asyncio.get_running_loop().time() + READY_WITHIN
        while missing := await self._missing():
            if asyncio.get_running_loop().time() > deadline:
                raise LabFailed(f"the lab is not ready: {missing}", hint=f"see the logs in {self.folders.var}")
            await asyncio.sleep(0.1)

    async def _missing(self) -> str:
        try:
            hosts = await self.manager.hosts()
        except Unreachable as error:
            return f"the manager does not answer: {error.detail}"
        return "; ".join(f"{host.name}: {host.reason}" for host in hosts if not host.reachable)

    async def status(self) -> dict[str, Any]:
        """What the supervisor says: the spec, and per host whether it runs, its init, its services."""
        answer = await control.ask(self.folders.control, "status")
        self._take_in(answer)
        return answer

    async def power_off(self, host: str) -> None:
        """Kill everything of a host at once. Not a full power loss: what was written to its disk image stays."""
        self._take_in(await control.ask(self.folders.control, "power-off", host=host))

    async def power_on(self, host: str) -> None:
        """Start a host that was powered off: new namespaces, the same disks, state and addresses."""
        self._take_in(await control.ask(self.folders.control, "power-on", host=host))

    async def hold(self, host: str, service: str = "agent") -> None:
        """End a service in order and keep it down until `release`."""
        await control.ask(self.folders.control, "hold", host=host, service=service)

    async def release(self, host: str, service: str = "agent") -> None:
        """Start a held service again."""
        await control.ask(self.folders.control, "release", host=host, service=service)

    def leftovers(self) -> list[str]:
        """What of this lab is on the machine, in words; empty once it is down."""
        return leftovers.find(self.folders)

    def _take_in(self, answer: dict[str, Any]) -> None:
        order = list(self.spec.hosts)
        for name, host in answer["hosts"].items():
            index = order.index(name) if name in order else None
            known = self._hosts.setdefault(name, LabHost(name, index, self.folders, self.spec))
            known.init = host["init"]
            known.services = host["services"]
            if index is not None:
                known.world = answer["hosts"][WORLD]["init"]
