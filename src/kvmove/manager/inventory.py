"""What there is: hosts, VMs and datastores, as the agents report them.

Each agent is asked every few seconds and whenever someone looks. Invariant: a host that does not answer says so and
why, its VMs are shown as `unknown` rather than as they were, and it delays nobody: it is asked again in the
background alone until it answers.

The inventory only reads. Who may run a VM is the registry's to say, not what is seen here.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kvmove.errors import CheckFailed, KvmoveError, NotFound, Unreachable
from kvmove.manager.agents import Agent, Connect
from kvmove.manager.lookup import did_you_mean, find_vm, one_place_each
from kvmove.manager.vm_index import VmIndex
from kvmove.model.host import HostInfo, HostStatus
from kvmove.model.move import HostRef
from kvmove.model.placement import HostMaintenance
from kvmove.model.vm import VmState, VmStatus

_LOG = logging.getLogger(__name__)

POLL_SECONDS = 3.0
ANSWER_SECONDS = 3.0  # a healthy agent answers in milliseconds, and slower than this is of no use to a person who waits


@dataclass
class _Seen:
    """One host: what its agent said last, and whether it says anything now. `asking` is the question under way."""

    ref: HostRef
    agent: Agent
    info: HostInfo | None = None
    vms: Sequence[VmStatus] = ()
    reason: str = "has not been asked yet"
    asking: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def reachable(self) -> bool:
        return not self.reason


class Marks(NamedTuple):
    """What the manager itself has decided about a host."""

    maintenance: HostMaintenance | None = None
    powered_off: bool = False


class Inventory:
    """The hosts of the configuration and what is on them. Lives on one event loop. `marks` is asked for each host."""

    def __init__(self, hosts: Sequence[HostRef], connect: Connect, poll_seconds: float = POLL_SECONDS) -> None:
        self._connect = connect
        self._hosts = {ref.name: _Seen(ref, connect(ref)) for ref in hosts}
        self._poll_seconds = poll_seconds
        self._heard: list[Callable[[], None]] = []
        self._timed: list[Callable[[float], None]] = []
        self._index = VmIndex()
        self.marks: Callable[[str], Marks] = lambda _name: Marks()

    def listen(self, heard: Callable[[], None], timed: Callable[[float], None]) -> None:
        """Call `heard` when hosts were asked, and `timed` with the seconds that an agent took to answer."""
        self._heard.append(heard)
        self._timed.append(timed)

    async def run(self) -> None:
        """Ask every agent again and again, until cancelled."""
        while True:
            asked = (self._ask(seen) for seen in self._hosts.values())
            for fault in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(fault, Exception):
                    _LOG.error("asking an agent failed, which should not be", exc_info=fault)
            self._tell()
            await asyncio.sleep(self._poll_seconds)

    async def close(self) -> None:
        """Let go of the connections to the agents."""
        for name in list(self._hosts):
            await self.remove(name)

    def add(self, ref: HostRef) -> None:
        """A host that is to be asked from now on, in place of one of its name that is gone."""
        self._hosts[ref.name] = _Seen(ref, self._connect(ref))

    async def remove(self, name: str) -> None:
        """Ask this host no more; no harm when there is none."""
        seen = self._hosts.pop(name, None)
        if seen is not None:
            if seen.asking is not None:
                seen.asking.cancel()
            self._index.put(name, seen.vms, ())
            await seen.agent.close()

    async def refresh_about(self, vm: str, host: str | None) -> None:
        """Ask the hosts that a move of `vm` to `host` is about; all hosts if the VM is not known by its whole name.
        With a thousand hosts, asking all of them for each move would be what a move's start waits for."""
        known = self._index.named(vm)
        names = {status.host for status in known} | ({host} if host is not None else set())
        if not known or any(name not in self._hosts for name in names):
            await self.refresh()
            return
        await asyncio.gather(*(self._ask(self._hosts[name]) for name in names))
        self._tell()

    async def refresh(self) -> None:
        """Ask all hosts that answered last time, or were never asked, once more; returns when they have answered."""
        ready = [seen for seen in self._hosts.values() if seen.reachable or seen.info is None]
        await asyncio.gather(*(self._ask(seen) for seen in ready))
        self._tell()

    def _tell(self) -> None:
        for heard in self._heard:
            heard()

    async def look_at(self, names: Collection[str]) -> None:
        """Ask these hosts once more; returns when they have answered. Names that are not known here are passed over."""
        await asyncio.gather(*(self._ask(seen) for name, seen in self._hosts.items() if name in names))
        self._tell()

    def hosts(self) -> list[HostStatus]:
        """All hosts by name, with the reason where one does not answer."""
        return [self._status(seen) for _, seen in sorted(self._hosts.items())]

    def host(self, name: str) -> HostStatus:
        """The host `name`.

        :raise NotFound: with a hint at close names.
        """
        return self._status(self._seen(name))

    def vms(self) -> list[VmStatus]:
        """All VMs by name, each once; those on a host that does not answer are `unknown`."""
        return one_place_each(vm for vms in self.reports() for vm in vms)

    def reports(self) -> list[Sequence[VmStatus]]:
        """What each host reported; a VM that moves is there twice. Quick, for those who sort it out in a thread."""
        return [_vms(seen) for seen in self._hosts.values()]

    def _named(self, text: str) -> list[VmStatus]:
        """The VMs that `text` names in full, each once, without a look at all the others."""
        found = self._index.named(text)
        uuids = {status.definition.uuid for status in found}
        hosts = dict.fromkeys(status.host for status in found)
        return one_place_each(vm for host in hosts for vm in _vms(self._hosts[host]) if vm.definition.uuid in uuids)

    def vm(self, text: str, *, exact: bool = False) -> VmStatus:
        """The VM that `text` names; see `lookup.find_vm`. A host that does not answer is named in the hint.

        :raise NotFound: no VM is called so, or begins so.
        :raise InvalidInput: more than one is.
        """
        try:
            return find_vm(self._named(text) or self.vms(), text, exact=exact)
        except NotFound as error:
            silent = [name for name, seen in sorted(self._hosts.items()) if not seen.reachable]
            if not silent:
                raise
            hint = f"{error.hint}; {', '.join(silent)} does not answer, VMs there may be missing"
            raise NotFound(error.detail, hint=hint) from error

    def agent(self, name: str) -> Agent:
        """The client of the agent of host `name`, whether it answers or not.

        :raise NotFound: no such host.
        """
        return self._seen(name).agent

    def answering(self, name: str) -> HostInfo:
        """What host `name` last said of itself, if it answers now.

        :raise NotFound: no such host.
        :raise Unreachable: it does not answer; the reason is in the sentence.
        """
        seen = self._seen(name)
        if seen.info is None or not seen.reachable:
            raise Unreachable(
                f"host {name} does not answer: {seen.reason}",
                hint=f"look on {name} (control address {seen.ref.control}): systemctl status kvmove-agent",
            )
        return seen.info

    def require_open(self, name: str) -> None:
        """Return when the host takes VMs.

        :raise CheckFailed: it is under maintenance.
        """
        mark = self.marks(name).maintenance
        if mark is not None:
            raise CheckFailed(
                f"{name} is in maintenance since {mark.since} and takes no VM",
                hint=f"choose another host, or end it: kvmove host maintenance exit {name}",
            )

    def _seen(self, name: str) -> _Seen:
        seen = self._hosts.get(name)
        if seen is None:
            raise NotFound(f"there is no host {name!r}", hint=did_you_mean(name, self._hosts))
        return seen

    def _status(self, seen: _Seen) -> HostStatus:
        marks = self.marks(seen.ref.name)
        return HostStatus(
            name=seen.ref.name,
            control=seen.ref.control,
            reachable=seen.reachable,
            info=seen.info,
            reason=seen.reason,
            maintenance=marks.maintenance,
            powered_off=marks.powered_off,
        )

    async def _ask(self, seen: _Seen) -> None:
        """One question at a time for each host; whoever comes meanwhile waits for the same answer. A host that is
        removed meanwhile gives none, and whoever waited goes on: the question is cancelled, they are not."""
        if seen.asking is None or seen.asking.done():
            seen.asking = asyncio.create_task(self._question(seen), name=f"inventory {seen.ref.name}")
        asking = seen.asking
        await asyncio.wait({asking})
        if not asking.cancelled():
            asking.result()

    async def _question(self, seen: _Seen) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                info, vms = await seen.agent.host(), await seen.agent.vms()
        except TimeoutError:
            reason = f"no answer within {ANSWER_SECONDS:.0f} s"
        except KvmoveError as error:
            reason = error.detail
        else:
            self._index.put(seen.ref.name, seen.vms, vms)
            seen.info, seen.vms, reason = info, vms, ""
            for tell in self._timed:
                tell(time.monotonic() - began)
        if reason != seen.reason:
            _LOG.info("host %s %s", seen.ref.name, f"does not answer: {reason}" if reason else "answers")
        seen.reason = reason


def _vms(seen: _Seen) -> Sequence[VmStatus]:
    if seen.reachable:
        return seen.vms
    return [vm.model_copy(update={"state": VmState.UNKNOWN, "pid": None}) for vm in seen.vms]
