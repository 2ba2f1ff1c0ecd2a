"""An agent's control interface as Python methods: what the manager and other agents use.

Every method raises Unreachable when the agent does not answer (a change may have taken effect all the same),
NotAllowed, or the error that the agent raised.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from pydantic import TypeAdapter

from kvmove.client.http import HttpClient, segment
from kvmove.logs import LoggedFields
from kvmove.model.forecast import GuestSample, StorageSample, WireSample
from kvmove.model.host import HostInfo
from kvmove.model.image import Bases, DiskImage
from kvmove.model.log import LogLine
from kvmove.model.move import HostRef, MovePlan, MoveStatus
from kvmove.model.probe import (
    HeardRequest,
    HeardResult,
    HereFacts,
    HereRequest,
    ListenRequest,
    QemuFacts,
    SendRequest,
    SendResult,
)
from kvmove.model.terms import TermsOrder, Word
from kvmove.model.vm import VmDefinition, VmStatus
from kvmove.pki.identity import Identity, Role
from kvmove.pki.peer import DEFAULT_TIMEOUT

_PROBE_TIMEOUT = 30.0  # a QEMU is started, or up to 64 pairs of NICs are tried
_CHANGE_TIMEOUT = 150.0  # making disks or starting QEMU takes the agent up to minutes

_HOST = TypeAdapter(HostInfo)
_VM = TypeAdapter(VmStatus)
_VMS = TypeAdapter(list[VmStatus])
_MOVE = TypeAdapter(MoveStatus)
_MOVES = TypeAdapter(list[MoveStatus])
_FACTS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
_IMAGES = TypeAdapter(list[DiskImage])
_LOG = TypeAdapter(list[LogLine])
_QEMU = TypeAdapter(QemuFacts)
_HERE = TypeAdapter(HereFacts)
_SENT = TypeAdapter(SendResult)
_HEARD = TypeAdapter(HeardResult)
_GUEST = TypeAdapter(GuestSample)
_WIRE = TypeAdapter(WireSample)
_STORAGE = TypeAdapter(StorageSample)
_TEXT = TypeAdapter(str)
_LINES = TypeAdapter(list[LoggedFields])
_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


class AgentClient:
    """The agent of `host`, called as the party whose certificates are in `pki`.

    It connects at its first call. Close it in the end, or use it as a context manager.

    :raise NotFound, NotAllowed: the files in `pki` are missing or broken.
    """

    def __init__(self, host: HostRef, pki: Path) -> None:
        self._http = HttpClient.over_tls(host.control, pki, Identity(Role.AGENT, host.name))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.close()

    async def host(self) -> HostInfo:
        return await self._http.ask(_HOST, "GET", "/v1/host")

    async def metrics(self) -> str:
        """The agent's figures as Prometheus reads them."""
        return await self._http.ask(_TEXT, "GET", "/v1/metrics")

    async def log(self) -> list[LoggedFields]:
        """The last lines of the agent's log, oldest first."""
        return await self._http.ask(_LINES, "GET", "/v1/log")

    async def vms(self) -> list[VmStatus]:
        return await self._http.ask(_VMS, "GET", "/v1/vms")

    async def probe_qemu(self) -> QemuFacts:
        """What the host's QEMU offers; the first time it is asked itself, which takes a moment."""
        return await self._http.ask(_QEMU, "POST", "/v1/probe/qemu", {}, timeout=_PROBE_TIMEOUT)

    async def probe_here(self, request: HereRequest) -> HereFacts:
        """The host's clock, certificates and MTUs, and which files it has not."""
        return await self._http.ask(_HERE, "POST", "/v1/probe/here", request)

    async def probe_listen(self, request: ListenRequest) -> None:
        """Let the host listen on its bridges for some seconds."""
        await self._http.ask(_ANYTHING, "POST", "/v1/probe/listen", request)

    async def probe_send(self, request: SendRequest) -> SendResult:
        """Let the host send on its bridges, and try pairs of NICs."""
        return await self._http.ask(_SENT, "POST", "/v1/probe/send", request, timeout=_PROBE_TIMEOUT)

    async def probe_heard(self, request: HeardRequest) -> HeardResult:
        """What the host heard since `probe_listen`."""
        return await self._http.ask(_HEARD, "POST", "/v1/probe/heard", request)

    async def images(self, vm: UUID) -> list[DiskImage]:
        """What the images of a VM's disks are."""
        return await self._http.ask(_IMAGES, "GET", f"/v1/vms/{vm}/images")

    async def define(self, definition: VmDefinition) -> VmStatus:
        """Make the VM's disks and register it as owned by this host; it is off."""
        return await self._http.ask(_VM, "POST", "/v1/vms", definition, timeout=_CHANGE_TIMEOUT)

    async def delete(self, vm: UUID) -> None:
        await self._http.ask(_ANYTHING, "DELETE", f"/v1/vms/{vm}", timeout=_CHANGE_TIMEOUT)

    async def start(self, vm: UUID) -> VmStatus:
        return await self._http.ask(_VM, "POST", f"/v1/vms/{vm}/start", timeout=_CHANGE_TIMEOUT)

    async def stop(self, vm: UUID) -> VmStatus:
        return await self._http.ask(_VM, "POST", f"/v1/vms/{vm}/stop", timeout=_CHANGE_TIMEOUT)

    async def kill(self, vm: UUID) -> VmStatus:
        return await self._http.ask(_VM, "POST", f"/v1/vms/{vm}/kill", timeout=_CHANGE_TIMEOUT)

    async def pause(self, vm: UUID) -> VmStatus:
        return await self._http.ask(_VM, "POST", f"/v1/vms/{vm}/pause", timeout=_CHANGE_TIMEOUT)

    async def resume(self, vm: UUID) -> VmStatus:
        return await self._http.ask(_VM, "POST", f"/v1/vms/{vm}/resume", timeout=_CHANGE_TIMEOUT)

    async def expect_incoming(self, plan: MovePlan, ticket: str) -> None:
        """The manager tells the destination to expect a move. `ticket` is 64 hex digits, used once."""
        await self._http.ask(_ANYTHING, "POST", "/v1/incoming", {"plan": plan, "ticket": ticket})

    async def start_move(self, plan: MovePlan, ticket: str) -> MoveStatus:
        """The manager tells the source to start a move."""
        return await self._http.ask(_MOVE, "POST", "/v1/moves", {"plan": plan, "ticket": ticket})

    async def sample_guest(self, plan: MovePlan, ticket: str) -> GuestSample:
        """For a forecast: how busy the VM's guest is. Takes the source about a second."""
        return await self._http.ask(_GUEST, "POST", "/v1/samples/guest", {"plan": plan, "ticket": ticket})

    async def expect_sample(self, plan: MovePlan, ticket: str) -> None:
        """The manager tells the destination to expect `sample_wire` of the source."""
        await self._http.ask(_ANYTHING, "POST", "/v1/samples/expect", {"plan": plan, "ticket": ticket})

    async def sample_wire(self, plan: MovePlan, ticket: str) -> WireSample:
        """For a forecast: what the plan's NICs carry from the source to the destination."""
        return await self._http.ask(_WIRE, "POST", "/v1/samples/wire", {"plan": plan, "ticket": ticket})

    async def sample_storage(self, plan: MovePlan, ticket: str) -> StorageSample:
        """For a forecast: how fast the new places of the disks take data from this host."""
        return await self._http.ask(_STORAGE, "POST", "/v1/samples/storage", {"plan": plan, "ticket": ticket})

    async def moves(self) -> list[MoveStatus]:
        return await self._http.ask(_MOVES, "GET", "/v1/moves")

    async def move(self, move_id: str) -> MoveStatus:
        """How a move is, or how it ended; also after a restart of the agent."""
        return await self._http.ask(_MOVE, "GET", f"/v1/moves/{segment(move_id)}")

    def events(self, move_id: str) -> AsyncGenerator[MoveStatus, None]:
        """The move at each change, about five a second, until it has ended.

        :raise Unreachable: the stream broke or fell silent; the move goes on.
        """
        return self._http.lines(_MOVE, f"/v1/moves/{segment(move_id)}/events")

    async def cancel(self, move_id: str) -> MoveStatus:
        return await self._http.ask(_MOVE, "POST", f"/v1/moves/{segment(move_id)}/cancel")

    async def move_log(self, move_id: str) -> list[LogLine]:
        """What the agent has logged of a move out of its host or into it, oldest first."""
        return await self._http.ask(_LOG, "GET", f"/v1/moves/{segment(move_id)}/log")

    async def say(self, move_id: str, verb: str, word: Word) -> MoveStatus:
        """An operator's word on a running move; `verb` is pause, resume or switchover."""
        return await self._http.ask(_MOVE, "POST", f"/v1/moves/{segment(move_id)}/{verb}", word)

    async def change_terms(self, move_id: str, order: TermsOrder) -> MoveStatus:
        return await self._http.ask(_MOVE, "POST", f"/v1/moves/{segment(move_id)}/terms", order)

    async def incoming(self, move_id: str) -> dict[str, Any]:
        """How the destination sees a move that comes to it."""
        return await self._http.ask(_FACTS, "GET", f"/v1/incoming/{segment(move_id)}")

    async def bring_incoming(self, move_id: str, bases: Bases) -> dict[str, Any]:
        """The source tells the destination what the disks rest on, before it prepares them."""
        path = f"/v1/incoming/{segment(move_id)}/bring"
        return await self._http.ask(_FACTS, "POST", path, bases, timeout=_CHANGE_TIMEOUT)

    async def resume_incoming(self, move_id: str, ticket: str) -> dict[str, Any]:
        """The source goes on with the copy of the disks after a restart of either agent, over streams of `ticket`."""
        path = f"/v1/incoming/{segment(move_id)}/resume"
        return await self._http.ask(_FACTS, "POST", path, {"ticket": ticket}, timeout=_CHANGE_TIMEOUT)

    async def prepare_incoming(
        self, move_id: str, body: Mapping[str, Any], timeout: float = _CHANGE_TIMEOUT
    ) -> dict[str, Any]:
        """The source tells the destination to make the disks and start QEMU."""
        return await self._incoming(move_id, "prepare", body, timeout)

    async def sync_incoming(
        self, move_id: str, body: Mapping[str, Any], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[str, Any]:
        """The source tells the destination to have its disks on stable storage."""
        return await self._incoming(move_id, "sync", body, timeout)

    async def digest_incoming(
        self, move_id: str, body: Mapping[str, Any], timeout: float = _CHANGE_TIMEOUT
    ) -> dict[str, Any]:
        """The digests of the destination's disks as they were at the last sync."""
        return await self._incoming(move_id, "digest", body, timeout)

    async def take_over_incoming(
        self, move_id: str, body: Mapping[str, Any], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[str, Any]:
        """The source yields: the destination may commit and let the VM run."""
        return await self._incoming(move_id, "take-over", body, timeout)

    async def abandon_incoming(
        self, move_id: str, body: Mapping[str, Any], timeout: float = DEFAULT_TIMEOUT
    ) -> dict[str, Any]:
        """The source tells the destination to end its QEMU and remove what the move made there."""
        return await self._incoming(move_id, "abandon", body, timeout)

    async def _incoming(self, move_id: str, step: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        path = f"/v1/incoming/{segment(move_id)}/{step}"
        return await self._http.ask(_FACTS, "POST", path, dict(body), timeout=timeout)
