"""The manager's interface (`/api/v1`) as Python methods: what the command line and scripts use.

Every method raises Unreachable when the manager does not answer (a change may have taken effect all the same),
NotAllowed, or the error that the manager raised. VMs are named by name, UUID or the beginning of either.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlencode

from aiohttp import ClientTimeout
from pydantic import TypeAdapter

from kvmove.client.access import AccessClient
from kvmove.client.http import HttpClient, segment
from kvmove.errors import InvalidInput
from kvmove.logs import LoggedFields
from kvmove.model.event import Event, PastEvents, Reset, Topic
from kvmove.model.host import HostDatastore, HostStatus
from kvmove.model.log import LogLine
from kvmove.model.move import MoveCheck, MoveRequest
from kvmove.model.placement import (
    Applied,
    ApplyRequest,
    BalancePlan,
    BalanceStatus,
    EvacuationPlan,
    MaintenanceRequest,
    Rule,
)
from kvmove.model.probe import NetworkReport
from kvmove.model.ranking import MoveRanking
from kvmove.model.task import Task, TaskChange, TaskState
from kvmove.model.vm import VmDefinition, VmPlacement, VmStatus
from kvmove.pki.identity import Identity, Role
from kvmove.pki.peer import CONNECT_TIMEOUT

PREFIX = "/api/v1"
_CHECK_TIMEOUT = 60.0  # probes of both hosts and of the networks between them
_CHANGE_TIMEOUT = 180.0  # making a VM's disks or starting it is the agent's work of up to minutes

_HOST = TypeAdapter(HostStatus)
_HOSTS = TypeAdapter(list[HostStatus])
_VM = TypeAdapter(VmStatus)
_VMS = TypeAdapter(list[VmStatus])
_DATASTORES = TypeAdapter(list[HostDatastore])
_CHECK = TypeAdapter(MoveCheck)
_RANKING = TypeAdapter(MoveRanking)
_NETWORK = TypeAdapter(NetworkReport)
_TASK = TypeAdapter(Task)
_LOG = TypeAdapter(list[LogLine])
_TASKS = TypeAdapter(list[Task])
_EVACUATION = TypeAdapter(EvacuationPlan)
_BALANCE = TypeAdapter(BalanceStatus)
_BALANCE_PLAN = TypeAdapter(BalancePlan)
_APPLIED = TypeAdapter(list[Applied])
_RULE = TypeAdapter(Rule)
_RULES = TypeAdapter(list[Rule])
_EVENT: TypeAdapter[Event | Reset] = TypeAdapter(Event)
_RESET: TypeAdapter[Event | Reset] = TypeAdapter(Reset)
_PAST = TypeAdapter(PastEvents)
_LINES = TypeAdapter(list[LoggedFields])
_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)
_NOTHING = TypeAdapter(type(None))


class TokenUser(NamedTuple):
    """A user of the API: the token, and the certificate (PEM) of the authority that the manager is known by."""

    token: str
    authority: str


class ManagerClient:
    """The manager at `server`: `https://HOST:7440` (then `pki` is the caller's own folder, or `user` has a token)
    or `unix:/PATH`.

    It connects at its first call. Close it in the end, or use it as a context manager.

    :raise InvalidInput: `server` is neither, or https without `pki` and `user`.
    :raise NotFound, NotAllowed: the files in `pki` are missing or broken.
    """

    def __init__(self, server: str, pki: Path | None = None, *, user: TokenUser | None = None) -> None:
        manager = Identity(Role.MANAGER, "manager")
        if server.startswith("unix:/"):
            self._http = HttpClient.over_socket(Path(server.removeprefix("unix:")))
        elif not server.startswith("https://"):
            raise InvalidInput(f"{server!r} is no manager", hint="write https://HOST:7440 or unix:/PATH")
        elif user is not None:
            self._http = HttpClient.over_trust(server, user.authority, manager, user.token)
        elif pki is None:
            raise InvalidInput(f"{server} asks who you are", hint="set KVMOVE_TOKEN, or name your certificate's folder")
        else:
            self._http = HttpClient.over_tls(server, pki, manager)
        self.access = AccessClient(self._http)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.close()

    async def health(self) -> dict[str, Any]:
        """What `/healthz` says."""
        return dict(await self._http.ask(_ANYTHING, "GET", "/healthz"))

    async def hosts(self) -> list[HostStatus]:
        return await self._http.ask(_HOSTS, "GET", f"{PREFIX}/hosts")

    async def host(self, name: str) -> HostStatus:
        return await self._http.ask(_HOST, "GET", f"{PREFIX}/hosts/{segment(name)}")

    async def datastores(self) -> list[HostDatastore]:
        return await self._http.ask(_DATASTORES, "GET", f"{PREFIX}/datastores")

    async def vms(self) -> list[VmStatus]:
        return await self._http.ask(_VMS, "GET", f"{PREFIX}/vms")

    async def vm(self, vm: str) -> VmStatus:
        return await self._http.ask(_VM, "GET", f"{PREFIX}/vms/{segment(vm)}")

    async def define_vm(self, host: str, definition: VmDefinition) -> VmStatus:
        """Make a VM with empty disks on `host`; it is off."""
        body = VmPlacement(host=host, definition=definition)
        return await self._http.ask(_VM, "POST", f"{PREFIX}/vms", body, timeout=_CHANGE_TIMEOUT)

    async def start_vm(self, vm: str) -> VmStatus:
        return await self._change_vm(vm, "start")

    async def stop_vm(self, vm: str) -> VmStatus:
        """Ask the guest to shut down."""
        return await self._change_vm(vm, "stop")

    async def kill_vm(self, vm: str) -> VmStatus:
        """End it as if the power went."""
        return await self._change_vm(vm, "kill")

    async def pause_vm(self, vm: str) -> VmStatus:
        """Let the guest stand still, its memory kept."""
        return await self._change_vm(vm, "pause")

    async def resume_vm(self, vm: str) -> VmStatus:
        """Let a paused guest go on."""
        return await self._change_vm(vm, "resume")

    async def delete_vm(self, vm: str) -> None:
        """Delete a VM that is off, and its disks. `vm` is the whole name or UUID."""
        await self._http.ask(_NOTHING, "DELETE", f"{PREFIX}/vms/{segment(vm)}", timeout=_CHANGE_TIMEOUT)

    async def check_move(self, request: MoveRequest, *, forecast: bool = False) -> MoveCheck:
        """What a move would do; changes nothing. A `forecast` takes some seconds, and the task of a start of the same
        request keeps it.

        :raise CheckFailed: something blocks it; `checks` has all that was found.
        """
        query = "?forecast=true" if forecast else ""
        return await self._http.ask(_CHECK, "POST", f"{PREFIX}/moves:check{query}", request, timeout=_CHECK_TIMEOUT)

    async def rank_hosts(self, request: MoveRequest) -> MoveRanking:
        """Where the VM could go, best first; `request` names no host. Changes nothing."""
        return await self._http.ask(_RANKING, "POST", f"{PREFIX}/moves:rank", request, timeout=_CHANGE_TIMEOUT)

    async def check_network(self, source: str, destination: str) -> NetworkReport:
        """What reaches what between two hosts."""
        path = f"{PREFIX}/hosts/{segment(source)}:check-network?to={segment(destination)}"
        return await self._http.ask(_NETWORK, "POST", path, timeout=_CHECK_TIMEOUT)

    async def start_move(self, request: MoveRequest) -> Task:
        """Start a move; the task tells how it goes on.

        :raise CheckFailed: something blocks it.
        """
        return await self._http.ask(_TASK, "POST", f"{PREFIX}/moves", request, timeout=_CHANGE_TIMEOUT)

    async def tasks(
        self,
        states: Iterable[TaskState] = (),
        vm: str | None = None,
        host: str | None = None,
        limit: int | None = None,
    ) -> list[Task]:
        """The tasks, newest first: those in one of `states`, of the VM (its whole name or UUID), with that host."""
        given = [*(("state", state) for state in states), ("vm", vm), ("host", host), ("limit", limit)]
        query = urlencode([(name, value) for name, value in given if value is not None])
        return await self._http.ask(_TASKS, "GET", f"{PREFIX}/tasks{'?' if query else ''}{query}")

    async def task(self, task_id: str) -> Task:
        return await self._http.ask(_TASK, "GET", f"{PREFIX}/tasks/{segment(task_id)}")

    async def cancel_task(self, task_id: str) -> Task:
        """End a queued move, or ask the source to stop it: then the task ends when the source is free again."""
        return await self._http.ask(_TASK, "POST", f"{PREFIX}/tasks/{segment(task_id)}:cancel")

    async def retry_task(self, task_id: str) -> Task:
        """Ask once more for what an ended task was asked for; gives the new task."""
        return await self._http.ask(_TASK, "POST", f"{PREFIX}/tasks/{segment(task_id)}:retry", timeout=_CHANGE_TIMEOUT)

    async def change_task(self, task_id: str, change: TaskChange) -> Task:
        """Change what may be changed about a task that has not ended."""
        return await self._http.ask(_TASK, "PATCH", f"{PREFIX}/tasks/{segment(task_id)}", change)

    async def task_log(self, task_id: str) -> list[LogLine]:
        """What the manager and both agents have logged of the task, oldest first."""
        return await self._http.ask(_LOG, "GET", f"{PREFIX}/tasks/{segment(task_id)}/log")

    async def pause_task(self, task_id: str) -> Task:
        """Hold the copy of the move; what is copied stays in step."""
        return await self._http.ask(_TASK, "POST", f"{PREFIX}/tasks/{segment(task_id)}:pause")

    async def resume_task(self, task_id: str) -> Task:
        return await self._http.ask(_TASK, "POST", f"{PREFIX}/tasks/{segment(task_id)}:resume")

    async def switch_task_over(self, task_id: str) -> Task:
        """Let a move switch over that waits for the word."""
        return await self._http.ask(_TASK, "POST", f"{PREFIX}/tasks/{segment(task_id)}:switchover")

    async def watch_task(self, task_id: str, after: int = -1) -> AsyncGenerator[Task, None]:
        """The task now and at each change, in states later than revision `after`, until it has ended.

        :raise Unreachable: the stream broke; go on with `after` = the last revision seen.
        """
        path = f"{PREFIX}/tasks/{segment(task_id)}/events"
        async with aclosing(self._http.events(path, str(after) if after >= 0 else None)) as events:
            async for event in events:
                if event.event == "task":
                    yield self._http.parse_text(_TASK, event.data)

    async def check_maintenance(self, host: str, request: MaintenanceRequest) -> EvacuationPlan:
        """What entering maintenance would do; changes nothing."""
        path = f"{PREFIX}/hosts/{segment(host)}:checkMaintenance"
        return await self._http.ask(_EVACUATION, "POST", path, request)

    async def enter_maintenance(self, host: str, request: MaintenanceRequest) -> Task:
        """The host takes no VM from now on, and its VMs are moved off; the task tells how it goes on."""
        return await self._http.ask(_TASK, "POST", f"{PREFIX}/hosts/{segment(host)}:enterMaintenance", request)

    async def exit_maintenance(self, host: str) -> HostStatus:
        """The host takes VMs again; an evacuation under way is cancelled."""
        path = f"{PREFIX}/hosts/{segment(host)}:exitMaintenance"
        return await self._http.ask(_HOST, "POST", path, timeout=_CHANGE_TIMEOUT)

    async def balance_status(self) -> BalanceStatus:
        return await self._http.ask(_BALANCE, "GET", f"{PREFIX}/balance")

    async def balance_plan(self) -> BalancePlan:
        """What is recommended now."""
        return await self._http.ask(_BALANCE_PLAN, "GET", f"{PREFIX}/balance/plan")

    async def balance_history(self) -> list[Applied]:
        return await self._http.ask(_APPLIED, "GET", f"{PREFIX}/balance/history")

    async def apply_balance(self, ids: tuple[str, ...] = ()) -> Task:
        """Apply these recommendations, or all; the task tells how it goes on."""
        return await self._http.ask(_TASK, "POST", f"{PREFIX}/balance:apply", ApplyRequest(ids=ids))

    async def rules(self) -> list[Rule]:
        return await self._http.ask(_RULES, "GET", f"{PREFIX}/rules")

    async def add_rule(self, rule: Rule) -> Rule:
        return await self._http.ask(_RULE, "POST", f"{PREFIX}/rules", rule)

    async def remove_rule(self, name: str) -> None:
        await self._http.ask(_NOTHING, "DELETE", f"{PREFIX}/rules/{segment(name)}")

    async def events(
        self, topics: Sequence[Topic] = (), after: int | None = None
    ) -> AsyncGenerator[Event | Reset, None]:
        """All that changes: a Reset, the present state and each change; with `after`, what came after that revision.

        :raise Unreachable: the stream broke; go on with `after` = the last revision seen.
        """
        path = f"{PREFIX}/events?topics={','.join(topics)}"
        async with aclosing(self._http.events(path, None if after is None else str(after))) as events:
            async for event in events:
                kind = _RESET if event.event == "reset" else _EVENT
                yield self._http.parse_text(kind, event.data)

    async def past_events(self, since: str, topics: Sequence[Topic] = ()) -> PastEvents:
        """The changes of state since a moment (RFC 3339, with its offset) that the manager remembers."""
        path = f"{PREFIX}/events:past?since={quote(since)}&topics={','.join(topics)}"
        return await self._http.ask(_PAST, "GET", path)

    async def ready(self) -> dict[str, Any]:
        """What `/readyz` says.

        :raise Unreachable: the manager or its registry does not answer.
        """
        return dict(await self._http.ask(_ANYTHING, "GET", "/readyz"))

    async def log(self, host: str | None = None) -> list[LoggedFields]:
        """The last lines of the manager's log, or of the agent's of `host`; oldest first."""
        path = f"{PREFIX}/log" if host is None else f"{PREFIX}/hosts/{segment(host)}/log"
        return await self._http.ask(_LINES, "GET", path)

    async def raw(self, method: str, path: str, body: object = None) -> tuple[str, str]:
        """Any request; media type and text of the answer."""
        limits = ClientTimeout(total=_CHANGE_TIMEOUT, connect=CONNECT_TIMEOUT)
        async with self._http.open(method, path, body, limits=limits) as response:
            return response.content_type, await response.text()

    async def _change_vm(self, vm: str, action: str) -> VmStatus:
        path = f"{PREFIX}/vms/{segment(vm)}:{action}"
        return await self._http.ask(_VM, "POST", path, timeout=_CHANGE_TIMEOUT)
