"""What this agent finds out when somebody checks a move: of its QEMU, of itself, and of the networks to another host.

Invariant: every probe ends within seconds whatever the network does, and leaves nothing: sockets that listen are closed
after LISTEN_SECONDS even if nobody asks what they heard.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from kvmove.agent.config import AgentConfig
from kvmove.errors import Busy
from kvmove.model.probe import (
    BridgeFault,
    CertificateFacts,
    HeardResult,
    HereFacts,
    ListenRequest,
    QemuFacts,
    SendRequest,
    SendResult,
)
from kvmove.pki.validity import expiries
from kvmove.qemu.accelerator import Accelerator
from kvmove.qemu.host_qemu import host_qemu
from kvmove.transport.path_probe import probe_pair
from kvmove.transport.segment_probe import Ear, call

LISTEN_SECONDS = 15.0
LATE_SECONDS = 0.5
"""How long a frame may be on its way after the sender has sent its last."""

MOST_LISTENING = 16
_AT_ONCE = 16
T = TypeVar("T")

_DEVICES = Path("/sys/class/net")


class Probes:
    """The probes of one host. Lives on one event loop."""

    def __init__(self, config: AgentConfig, accelerator: Accelerator) -> None:
        self._config = config
        self._accelerators: tuple[Accelerator, ...] = ("tcg",) if accelerator == "tcg" else ("kvm", "tcg")
        self._one_qemu = asyncio.Lock()
        self._listening: dict[str, tuple[list[Ear], list[BridgeFault]]] = {}
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    def close(self) -> None:
        for token in list(self._listening):
            self._forget(token)

    async def qemu(self) -> QemuFacts:
        """Raises as `qemu.host_qemu` does."""
        async with self._one_qemu:
            return await host_qemu(self._accelerators, self._config.state / "qemu-facts.json")

    async def here(self, files: tuple[str, ...]) -> HereFacts:
        """The host at this moment; its clock is read last."""
        facts = await asyncio.to_thread(_here, self._config.pki, files)
        return facts.model_copy(update={"clock": time.time()})

    def listen(self, request: ListenRequest) -> None:
        """Listen on the bridges from now on; a bridge on which that cannot be is told by `heard`.

        :raise Busy: too many ask at once.
        """
        if len(self._listening) >= MOST_LISTENING:
            raise Busy("too many checks listen on this host's bridges at once", hint="ask again in a moment")
        self._forget(request.token)
        ears, faults = [], []
        for bridge in request.bridges:
            try:
                ears.append(Ear(bridge, request.token))
            except OSError as error:
                faults.append(_fault(bridge, error))
        self._listening[request.token] = ears, faults
        asyncio.get_running_loop().call_later(LISTEN_SECONDS, self._forget, request.token)

    async def heard(self, token: str) -> HeardResult:
        """What was heard since `listen`; it listens no more. Nothing when there was no `listen`, or too long ago."""
        ears, faults = self._listening.pop(token, ([], []))
        try:
            results = await asyncio.gather(*(asyncio.to_thread(_hear, ear) for ear in ears))
        finally:
            for ear in ears:
                ear.close()
        faults += [result for result in results if isinstance(result, BridgeFault)]
        heard = tuple(ear.bridge for ear, result in zip(ears, results, strict=True) if result is True)
        return HeardResult(heard=heard, faults=tuple(faults))

    async def send(self, request: SendRequest) -> SendResult:
        """Send on the bridges, and try the pairs, all at the same time."""
        calls = (self._run(_call, bridge, request.token) for bridge in request.bridges)
        pairs = (self._run(probe_pair, pair, request.port) for pair in request.pairs)
        faults, probed = await asyncio.gather(asyncio.gather(*calls), asyncio.gather(*pairs))
        return SendResult(pairs=tuple(probed), faults=tuple(fault for fault in faults if fault is not None))

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        async with self._at_once:
            return await asyncio.to_thread(work, *arguments)

    def _forget(self, token: str) -> None:
        ears, _ = self._listening.pop(token, ([], []))
        for ear in ears:
            ear.close()


def _hear(ear: Ear) -> bool | BridgeFault:
    try:
        return ear.heard(LATE_SECONDS)
    except OSError as error:
        return _fault(ear.bridge, error)


def _call(bridge: str, token: str) -> BridgeFault | None:
    try:
        call(bridge, token)
    except OSError as error:
        return _fault(bridge, error)
    return None


def _here(pki: Path, files: tuple[str, ...]) -> HereFacts:
    mtus = {}
    for device in _DEVICES.iterdir():
        with suppress(OSError, ValueError):
            mtus[device.name] = int((device / "mtu").read_text())
    certificates = tuple(CertificateFacts(path=str(path), expires=at.isoformat()) for path, at in expiries(pki).items())
    missing = tuple(file for file in files if not Path(file).is_file())
    return HereFacts(clock=0.0, mtus=mtus, certificates=certificates, missing_files=missing)


def _fault(bridge: str, error: OSError) -> BridgeFault:
    return BridgeFault(bridge=bridge, reason=error.strerror or str(error), down=error.errno == errno.ENETDOWN)
