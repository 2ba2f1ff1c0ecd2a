"""The check before a move: gathers what the hosts and the registry say, lets the hosts probe, and lets
`migration.plan` judge it. For one destination, or for all.

Invariant: a check changes nothing, and ends within a minute whatever the hosts do. It does not know which moves this
manager has under way; `moves` does.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple

from kvmove.errors import Busy, InvalidInput, Unreachable
from kvmove.manager.inventory import Inventory
from kvmove.manager.probes import End, Prober
from kvmove.migration.findings import blocks, warning
from kvmove.migration.network_view import network_report
from kvmove.migration.plan import can_compare, check, make_plan
from kvmove.migration.probed import NOT_PROBED, Known, Probed
from kvmove.migration.ranking import ORDER, rank
from kvmove.model.finding import Finding
from kvmove.model.host import HostStatus
from kvmove.model.image import DiskImage
from kvmove.model.move import MoveCheck, MovePlan, MoveRequest
from kvmove.model.ownership import Ownership, OwnershipState
from kvmove.model.probe import NetworkReport
from kvmove.model.ranking import MoveRanking, RankedHost
from kvmove.model.vm import VmStatus
from kvmove.registry.interface import Registry

FRESH_SECONDS = 10.0
"""How long a probe is good for the start of the move that was checked."""

PROBED_AT_ONCE = 4
"""Hosts of a ranking: each pair of hosts takes some connections and threads of the source's agent."""


WouldWait = Callable[[MoveRequest, MovePlan], Awaitable[str]]
"""What this move would wait for if it were started now; empty if for nothing."""


class _Facts(NamedTuple):
    """What all checks of one VM share. `hosts` are those that they are about at least."""

    vm: VmStatus
    hosts: Mapping[str, HostStatus]
    record: Ownership | None
    images: dict[str, DiskImage]


class Checks:
    """Checks of moves between the hosts of `inventory`. Lives on one event loop."""

    def __init__(self, inventory: Inventory, registry: Registry, would_wait: WouldWait) -> None:
        self._inventory = inventory
        self._registry = registry
        self._would_wait = would_wait
        self._recent: dict[tuple[str, str], tuple[float, tuple[str, ...], Probed]] = {}

    async def find(self, request: MoveRequest) -> VmStatus:
        """The VM of the request, as its host sees it now.

        :raise NotFound: no such VM or host.
        """
        await self._inventory.refresh_about(request.vm, request.host)
        if request.host is not None:
            self._inventory.host(request.host)
        return self._inventory.vm(request.vm)

    async def check(self, request: MoveRequest, vm: VmStatus, *, fresh: bool = True) -> MoveCheck:
        """What the move would do, and what to know before it starts. Without `fresh`, as for a start, a probe of the
        last FRESH_SECONDS will do, and whether it would be queued is not asked.

        :raise CheckFailed: something blocks it; all that was found is in `checks`.
        :raise Busy: the VM is moving.
        """
        facts = await self._facts(vm, {vm.host, request.host or vm.host})
        known = Known(facts.images, await self._probe(request, facts, fresh=fresh))
        plan = make_plan(request, vm, facts.hosts, facts.record, secrets.token_hex(8), known)
        if fresh:
            known = known._replace(told=await self._room(request, plan))
        return MoveCheck(plan=plan, findings=tuple(check(request, vm, facts.hosts, facts.record, known)))

    async def rank(self, request: MoveRequest, vm: VmStatus, running: Mapping[str, int]) -> MoveRanking:
        """Every host but the VM's own, best first. `running` are the moves under way, by host. A host that the reports
        alone rule out is not probed.

        :raise Busy: the VM is moving.
        """
        facts = await self._facts(vm, [host.name for host in self._inventory.hosts()])
        gate = asyncio.Semaphore(PROBED_AT_ONCE)

        async def look(host: HostStatus) -> RankedHost:
            async with gate:
                return await self._look(request.model_copy(update={"host": host.name}), facts, running)

        found = await asyncio.gather(*(look(host) for name, host in facts.hosts.items() if name != vm.host))
        return MoveRanking(vm=vm.definition.name, source=vm.host, hosts=rank(found), order=ORDER)

    async def network(self, source: str, destination: str) -> NetworkReport:
        """What reaches what between two hosts: every pair of migration NICs, every bridge that both have.

        :raise NotFound: no such host. :raise Unreachable: one does not answer.
        :raise InvalidInput: it is one host.
        """
        await self._inventory.refresh()
        one, other = self._end(source), self._end(destination)
        if source == destination:
            raise InvalidInput(f"{source} is one host", hint="name two hosts")
        return network_report(one.info, other.info, await Prober(one, other).network(one.info.bridges))

    async def _look(self, request: MoveRequest, facts: _Facts, running: Mapping[str, int]) -> RankedHost:
        arguments = (request, facts.vm, facts.hosts, facts.record)
        known = Known(facts.images)
        findings = check(*arguments, known)
        if not any(map(blocks, findings)):
            known = Known(facts.images, await self._probe(request, facts, fresh=True))
            findings = check(*arguments, known)
        plan = None
        if not any(map(blocks, findings)):
            plan = make_plan(*arguments, secrets.token_hex(8), known)
            findings = check(*arguments, known._replace(told=await self._room(request, plan)))
        name = request.host or facts.vm.host
        status = facts.hosts[name]
        info = status.info if status.reachable else None
        return RankedHost(
            host=name,
            plan=plan,
            findings=tuple(findings),
            memory_free=info.memory_free if info else None,
            memory_total=info.memory_total if info else None,
            running_moves=running.get(name, 0),
        )

    async def _room(self, request: MoveRequest, plan: MovePlan) -> tuple[Finding, ...]:
        waits = await self._would_wait(request, plan)
        if not waits:
            return ()
        remedy = "it begins by itself when there is room; `--priority high` goes before others that wait"
        return (warning("would-be-queued", f"the move would be queued now: {waits}", remedy),)

    async def _facts(self, vm: VmStatus, names: Collection[str]) -> _Facts:
        record = await self._registry.get(vm.definition.uuid)
        _refuse_moving(vm, record)
        hosts = {name: self._inventory.host(name) for name in names}
        return _Facts(vm, hosts, record, await self._images(vm))

    async def _probe(self, request: MoveRequest, facts: _Facts, *, fresh: bool) -> Probed:
        """What probes find; nothing where there are no two hosts that could be compared."""
        vm = facts.vm
        if not can_compare(request, vm, facts.hosts, facts.record):
            return NOT_PROBED
        one, other = self._end(vm.host), self._end(request.host or vm.host)
        boot = vm.definition.boot
        files = tuple(file for file in (boot.kernel, boot.initrd) if file) if boot else ()
        bridges = tuple(dict.fromkeys(nic.bridge for nic in vm.definition.nics))
        key, wanted = (one.info.name, other.info.name), (*bridges, *files)
        if not fresh and key in self._recent:
            when, had, probed = self._recent[key]
            if had == wanted and time.monotonic() - when < FRESH_SECONDS:
                return probed
        probed = await Prober(one, other).look(bridges, files)
        self._recent[key] = time.monotonic(), wanted, probed
        return probed

    def _end(self, host: str) -> End:
        return End(self._inventory.answering(host), self._inventory.agent(host))

    async def _images(self, vm: VmStatus) -> dict[str, DiskImage]:
        """Those of the VM's disks; none where its host does not answer, which the checks say themselves."""
        try:
            return {image.name: image for image in await self._inventory.agent(vm.host).images(vm.definition.uuid)}
        except Unreachable:
            return {}


def _refuse_moving(vm: VmStatus, record: Ownership | None) -> None:
    if record is not None and record.state is OwnershipState.MOVING:
        raise Busy(
            f"{vm.definition.name} moves from {record.owner} to {record.destination} already (move {record.move_id})",
            hint="wait until that move has ended",
            vm_state=f"{vm.state} on {vm.host}",
        )
