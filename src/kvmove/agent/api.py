"""The agent's control interface: JSON over mutual TLS. Parses, checks who asks, calls, and turns errors into problems.

The manager may do everything but speak as a source; another agent may only speak as the source of a move that the
manager announced to this host. Nobody else gets in: their certificate is of another authority or role.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel, ValidationError

from kvmove.agent.metrics import AgentMetrics
from kvmove.agent.moves import Moves
from kvmove.agent.probes import Probes
from kvmove.agent.samples import Samples
from kvmove.agent.tickets import ticket_of
from kvmove.agent.vms import VmManager
from kvmove.errors import InvalidInput, KvmoveError, NotFound
from kvmove.log_context import of_move
from kvmove.logs import RecentLines
from kvmove.migration.move_log import logged_as
from kvmove.model.host import HostInfo
from kvmove.model.image import Bases
from kvmove.model.move import MovePlan
from kvmove.model.probe import HeardRequest, HereRequest, ListenRequest, SendRequest
from kvmove.model.strict import Strict
from kvmove.model.terms import TermsOrder, Word
from kvmove.model.vm import VmDefinition, VmStatus
from kvmove.move_log import MoveLog
from kvmove.pki.identity import Identity, Role, peer_identity, require

log = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024

T = TypeVar("T", bound=BaseModel)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PlanAndTicket(Strict):
    """What the manager sends to both hosts of a move."""

    plan: MovePlan
    ticket: str


class Ticket(Strict):
    """What a source proves new streams with."""

    ticket: str


@dataclass(frozen=True)
class ApiParts:
    """What the routes speak to. `host_info` gives a fresh report, `kept` is what was logged of each move, `recent` what
    was logged last."""

    vms: VmManager
    moves: Moves
    host_info: Callable[[], Awaitable[HostInfo]]
    kept: MoveLog
    probes: Probes
    samples: Samples
    metrics: AgentMetrics
    recent: RecentLines


class AgentApi:
    """The routes of one agent."""

    def __init__(self, parts: ApiParts) -> None:
        self._vms = parts.vms
        self._moves = parts.moves
        self._host_info = parts.host_info
        self._kept = parts.kept
        self._probes = parts.probes
        self._samples = parts.samples
        self._metrics = parts.metrics
        self._recent = parts.recent

    def application(self) -> web.Application:
        app = web.Application(middlewares=[problems], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/v1/host", self._host),
                web.post("/v1/probe/{what:qemu|here|listen|send|heard}", self._probe),
                web.get("/v1/metrics", self._show_metrics),
                web.get("/v1/log", self._show_log),
                web.get("/v1/vms", self._list_vms),
                web.post("/v1/vms", self._define),
                web.delete("/v1/vms/{uuid}", self._delete),
                web.get("/v1/vms/{uuid}/images", self._images),
                web.post("/v1/vms/{uuid}/{verb:start|stop|kill|pause|resume}", self._act),
                web.get("/v1/moves", self._list_moves),
                web.post("/v1/moves", self._start_move),
                web.get("/v1/moves/{id}", self._move),
                web.get("/v1/moves/{id}/events", self._events),
                web.post("/v1/moves/{id}/cancel", self._cancel),
                web.get("/v1/moves/{id}/log", self._move_log),
                web.post("/v1/moves/{id}/{verb:pause|resume|switchover}", self._say),
                web.post("/v1/moves/{id}/terms", self._change_terms),
                web.post("/v1/samples/{what:guest|expect|wire|storage}", self._sample),
                web.post("/v1/incoming", self._expect),
                web.get("/v1/incoming/{id}", self._incoming),
                web.post("/v1/incoming/{id}/bring", self._bring),
                web.post("/v1/incoming/{id}/resume", self._resume_incoming),
                web.post("/v1/incoming/{id}/{step:prepare|sync|digest|take-over|abandon}", self._incoming_step),
            ]
        )
        return app

    # Host and VMs.

    async def _host(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        return _answer(await self._host_info())

    async def _probe(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        match request.match_info["what"]:
            case "qemu":
                return _answer(await self._probes.qemu())
            case "here":
                return _answer(await self._probes.here((await _parse(request, HereRequest)).files))
            case "listen":
                self._probes.listen(await _parse(request, ListenRequest))
                return _answer({})
            case "heard":
                return _answer(await self._probes.heard((await _parse(request, HeardRequest)).token))
            case _:
                return _answer(await self._probes.send(await _parse(request, SendRequest)))

    async def _show_metrics(self, request: web.Request) -> web.StreamResponse:
        """Figures in Prometheus' words, in JSON's string: the manager passes them on."""
        _from_manager(request)
        told = self._metrics.render(await self._host_info(), await self._vms.statuses(), self._moves.all())
        return web.json_response(told)

    async def _show_log(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        return _answer(list(self._recent.lines))

    async def _list_vms(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        return _answer([vm.model_dump(mode="json") for vm in await self._vms.statuses()])

    async def _define(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        return _answer(await self._vms.define(await _parse(request, VmDefinition)), status=201)

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        await self._vms.delete(_uuid(request))
        return web.Response(status=204)

    async def _images(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        return _answer([image.model_dump(mode="json") for image in await self._vms.images(_uuid(request))])

    async def _act(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        verbs: dict[str, Callable[[UUID], Awaitable[VmStatus]]] = {
            "start": self._vms.start,
            "stop": self._vms.stop,
            "kill": self._vms.kill,
            "pause": self._vms.pause,
            "resume": self._vms.resume,
        }
        return _answer(await verbs[request.match_info["verb"]](_uuid(request)))

    # Moves out.

    async def _list_moves(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        return _answer([status.model_dump(mode="json") for status in self._moves.all()])

    async def _start_move(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        asked = await _parse(request, PlanAndTicket)
        return _answer(self._moves.start(asked.plan, asked.ticket), status=202)

    async def _move(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        return _answer(self._moves.status(request.match_info["id"]))

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        return _answer(self._moves.cancel(request.match_info["id"]))

    async def _move_log(self, request: web.Request) -> web.StreamResponse:
        """Of a move out of this host or into it; one that nothing was heard of has no lines."""
        _from_manager(request)
        return _answer([line.model_dump(mode="json") for line in self._kept.of(request.match_info["id"])])

    async def _say(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        move_id = request.match_info["id"]
        steering = self._moves.steering(move_id)
        verbs = {"pause": steering.pause, "resume": steering.resume, "switchover": steering.give_word}
        verbs[request.match_info["verb"]]((await _parse(request, Word)).by)
        return _answer(self._moves.status(move_id))

    async def _change_terms(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        move_id = request.match_info["id"]
        asked = await _parse(request, TermsOrder)
        self._moves.steering(move_id).change(asked.terms, asked.by)
        return _answer(self._moves.status(move_id))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        self._moves.status(request.match_info["id"])  # not found is an answer, not an empty stream
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async for status in self._moves.events(request.match_info["id"]):
            await response.write(status.model_dump_json().encode() + b"\n")
        await response.write_eof()
        return response

    async def _sample(self, request: web.Request) -> web.StreamResponse:
        """For a forecast; nothing is begun by it."""
        _from_manager(request)
        asked, what = await _parse(request, PlanAndTicket), request.match_info["what"]
        if what == "expect":
            self._samples.expect(asked.plan, asked.ticket)
            return _answer({}, status=202)
        if what == "wire":
            return _answer(await self._samples.wire(asked.plan, asked.ticket))
        if what == "storage":
            return _answer(await self._samples.storage(asked.plan))
        return _answer(await self._samples.guest(asked.plan))

    # Moves in.

    async def _expect(self, request: web.Request) -> web.StreamResponse:
        _from_manager(request)
        asked = await _parse(request, PlanAndTicket)
        self._moves.expect(asked.plan, asked.ticket)
        return _answer({}, status=202)

    async def _incoming(self, request: web.Request) -> web.StreamResponse:
        caller = require(_peer(request), Role.MANAGER, Role.AGENT)
        source = caller.name if caller.role is Role.AGENT else None
        return _answer(self._moves.incoming(request.match_info["id"], source).status())

    async def _bring(self, request: web.Request) -> web.StreamResponse:
        caller = require(_peer(request), Role.AGENT)
        move = self._moves.incoming(request.match_info["id"], caller.name)
        with logged_as(move.plan):
            return _answer(await move.bring(await _parse(request, Bases)))

    async def _resume_incoming(self, request: web.Request) -> web.StreamResponse:
        caller = require(_peer(request), Role.AGENT)
        move = self._moves.incoming(request.match_info["id"], caller.name)
        with logged_as(move.plan):
            return _answer(await move.resume(ticket_of((await _parse(request, Ticket)).ticket)))

    async def _incoming_step(self, request: web.Request) -> web.StreamResponse:
        caller = require(_peer(request), Role.AGENT)
        move = self._moves.incoming(request.match_info["id"], caller.name)
        steps = {
            "prepare": move.prepare,
            "sync": move.sync,
            "digest": move.digests,
            "take-over": move.take_over,
            "abandon": move.abandon,
        }
        with logged_as(move.plan):
            return _answer(await steps[request.match_info["step"]]())


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as problem+json; what is unexpected is logged whole and told in one sentence."""
    move_id = request.match_info.get("id")
    try:
        with of_move(move_id) if move_id else nullcontext():
            return await handler(request)
    except KvmoveError as error:
        return _problem(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        kind = NotFound if error.status == 404 else InvalidInput
        return _problem(kind(f"{request.method} {request.path}: {error.reason}"), error.status)
    except (ConnectionError, TimeoutError):
        raise
    except Exception as error:
        log.exception("%s %s failed", request.method, request.path)
        return _problem(KvmoveError(f"The agent failed by a defect of ours: {error!r}"))


def _problem(error: KvmoveError, status: int = 0) -> web.Response:
    return web.Response(
        status=status or error.status, content_type="application/problem+json", text=json.dumps(error.problem())
    )


def _answer(body: BaseModel | dict[str, Any] | list[Any], status: int = 200) -> web.Response:
    text = body.model_dump_json() if isinstance(body, BaseModel) else json.dumps(body)
    return web.Response(status=status, content_type="application/json", text=text)


async def _parse(request: web.Request, kind: type[T]) -> T:
    """:raise InvalidInput: the body is not what was asked for; says where."""
    try:
        return kind.model_validate_json(await request.read())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise InvalidInput(f"{where}: {first['msg']}") from error


def _uuid(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["uuid"])
    except ValueError as error:
        raise InvalidInput(f"{request.match_info['uuid']!r} is not a VM's UUID") from error


def _peer(request: web.Request) -> Identity:
    return peer_identity(request.get_extra_info("peercert"))


def _from_manager(request: web.Request) -> None:
    require(_peer(request), Role.MANAGER)
