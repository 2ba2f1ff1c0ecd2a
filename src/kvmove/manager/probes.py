"""Asks the agents of two hosts to probe themselves and the networks between them; each probe bounded in time.

Invariant: no probe fails a check. What could not be found out is a finding that says what and why.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Collection
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

from kvmove.errors import KvmoveError
from kvmove.manager.agents import Agent
from kvmove.migration.findings import warning
from kvmove.migration.probed import Clocks, Probed, common_bridges, nic_pairs
from kvmove.model.finding import Finding
from kvmove.model.host import HostInfo
from kvmove.model.probe import (
    BridgeProbe,
    HeardRequest,
    HereFacts,
    HereRequest,
    ListenRequest,
    NetworkProbe,
    QemuFacts,
    SendRequest,
    SendResult,
)

_LOG = logging.getLogger(__name__)

QEMU_SECONDS = 25.0
HERE_SECONDS = 5.0
NETWORK_SECONDS = 20.0

T = TypeVar("T")


class End(NamedTuple):
    """A host and its agent."""

    info: HostInfo
    agent: Agent


class _Here(NamedTuple):
    """A host's word, and how far its clock is ahead of ours: at least and at most, in seconds."""

    facts: HereFacts
    earliest: float
    latest: float


class Prober:
    """The probes from `source` to `destination`. Used once; `failed` grows while it works."""

    def __init__(self, source: End, destination: End) -> None:
        self._source = source
        self._destination = destination
        self.failed: list[Finding] = []

    async def look(self, bridges: Collection[str], files: Collection[str]) -> Probed:
        """Everything that a check of a move wants: of the VM's `bridges`, and the `files` it needs there."""
        (one, other), qemus = await asyncio.gather(
            self._both_here(tuple(files)),
            asyncio.gather(self._qemu(self._source), self._qemu(self._destination)),
        )
        return Probed(
            source_qemu=qemus[0],
            destination_qemu=qemus[1],
            source_here=one.facts if one else None,
            destination_here=other.facts if other else None,
            clocks=_clocks(one, other),
            network=await self._network(bridges, one, other),
            now=datetime.now(UTC),
            failed=tuple(self.failed),
        )

    async def network(self, bridges: Collection[str]) -> Probed:
        """The networks alone."""
        one, other = await self._both_here(())
        return Probed(
            source_here=one.facts if one else None,
            destination_here=other.facts if other else None,
            network=await self._network(bridges, one, other),
            failed=tuple(self.failed),
        )

    async def _both_here(self, files: tuple[str, ...]) -> tuple[_Here | None, _Here | None]:
        return await asyncio.gather(self._here(self._source, ()), self._here(self._destination, files))

    async def _here(self, end: End, files: tuple[str, ...]) -> _Here | None:
        what = f"the clock, the certificates and the MTUs of {end.info.name}"
        return await self._try(self._timed(end, files), HERE_SECONDS, what)

    async def _timed(self, end: End, files: tuple[str, ...]) -> _Here:
        """The agent read its clock between our asking and the answer's coming."""
        before = time.time()
        facts = await end.agent.probe_here(HereRequest(files=files))
        return _Here(facts, facts.clock - time.time(), facts.clock - before)

    async def _qemu(self, end: End) -> QemuFacts | None:
        what = f"which CPU features and machine types {end.info.name} offers"
        return await self._try(end.agent.probe_qemu(), QEMU_SECONDS, what)

    async def _network(self, bridges: Collection[str], one: _Here | None, other: _Here | None) -> NetworkProbe | None:
        source, destination = self._source.info, self._destination.info
        what = f"what {source.name} reaches of {destination.name} over the network"
        mtus = (one.facts.mtus if one else {}, other.facts.mtus if other else {})
        request = SendRequest(
            token=secrets.token_hex(16),
            bridges=common_bridges(source, destination, bridges),
            pairs=tuple(nic_pairs(source, destination, mtus)),
            port=destination.data_port,
        )
        return await self._try(self._call_and_hear(request), NETWORK_SECONDS, what)

    async def _call_and_hear(self, request: SendRequest) -> NetworkProbe:
        agent = self._destination.agent
        await agent.probe_listen(ListenRequest(token=request.token, bridges=request.bridges))
        sent: SendResult = await self._source.agent.probe_send(request)
        heard = await agent.probe_heard(HeardRequest(token=request.token))
        silent = {fault.bridge: f"{self._source.info.name} cannot send: {fault.reason}" for fault in sent.faults}
        silent |= {
            fault.bridge: f"{self._destination.info.name} cannot listen: {fault.reason}" for fault in heard.faults
        }
        down = {fault.bridge for fault in heard.faults if fault.down}
        found = (
            BridgeProbe(
                bridge=bridge,
                connected=None if bridge in silent.keys() - down else bridge in heard.heard,
                reason=f"it is down on {self._destination.info.name}" if bridge in down else silent.get(bridge, ""),
            )
            for bridge in request.bridges
        )
        return NetworkProbe(pairs=sent.pairs, bridges=tuple(found))

    async def _try(self, asked: Awaitable[T], seconds: float, what: str) -> T | None:
        try:
            async with asyncio.timeout(seconds):
                return await asked
        except TimeoutError:
            reason = f"no answer within {seconds:g} s"
        except KvmoveError as error:
            reason = error.detail
        _LOG.info("%s was not found out: %s", what, reason)
        self.failed.append(
            warning(
                "probe-failed",
                f"{what} was not found out: {reason}",
                "check again; if it stays so, see the log of kvmove-agent on both hosts",
            )
        )
        return None


def _clocks(one: _Here | None, other: _Here | None) -> Clocks | None:
    """The middle of what may be, and half of its width."""
    if one is None or other is None:
        return None
    least, most = other.earliest - one.latest, other.latest - one.earliest
    return Clocks((least + most) / 2, (most - least) / 2)
