"""Starts moves, one per VM at a time, and cancels them; `follow` sees them to their end.

Order of a start, and why: the task is on disk before any agent hears of the move, so that a manager that dies in
between finds it again; the destination expects the move before the source begins it; and when the source's answer is
lost, the move may have begun, so the task is followed rather than called a failure.

Invariant: the ticket goes to the two agents and nowhere else: not into the task, the log, an answer or an error.
"""

import asyncio
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from kvmove.errors import Busy, KvmoveError, Unreachable
from kvmove.manager.follow import Follower, now
from kvmove.manager.inventory import Inventory
from kvmove.manager.task_book import TaskBook
from kvmove.migration.findings import warnings
from kvmove.migration.plan import check, make_plan
from kvmove.model.image import DiskImage
from kvmove.model.move import MoveCheck, MoveKind, MovePlan, MoveRequest
from kvmove.model.ownership import Ownership, OwnershipState
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import VmStatus
from kvmove.registry.interface import Registry

_LOG = logging.getLogger(__name__)

_TICKET_BYTES = 32
_AFTER_FAULT_SECONDS = 5.0


class Moves:
    """The moves of this manager. Lives on one event loop."""

    def __init__(self, inventory: Inventory, registry: Registry, book: TaskBook, follower: Follower) -> None:
        self._inventory = inventory
        self._registry = registry
        self._book = book
        self._follower = follower
        self._starting: set[UUID] = set()
        self._following: set[asyncio.Task[None]] = set()

    def resume(self) -> None:
        """Follow again what was running when the manager ended."""
        for task in self._book.running():
            if task.plan is not None:
                self._follow(task.id, task.plan)

    async def close(self) -> None:
        """Stop following. The moves go on."""
        for following in self._following:
            following.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)

    async def check(self, request: MoveRequest) -> MoveCheck:
        """What the move would do, and what to know before; nothing is changed.

        :raise NotFound: no such VM or host.
        :raise CheckFailed: something blocks it; every blocker is named, with its remedy.
        :raise Busy: the VM moves already.
        """
        vm = await self._find(request)
        self._refuse_second(vm)
        return await self._plan(request, vm)

    async def start(self, request: MoveRequest) -> Task:
        """Start the move and give its task. Raises as `check` does, and what an agent says against it.

        After an error of an agent the task is there too, as failed. After a lost answer of the source it runs.
        """
        vm = await self._find(request)
        with self._alone(vm):
            plan = (await self._plan(request, vm)).plan
            task = await self._book.add(_task(plan))
            _LOG.info("move %s: %s from %s to %s", task.id, task.vm, task.source, task.destination)
            await self._begin(task, plan)
        self._follow(task.id, plan)
        return self._book.get(task.id)

    async def cancel(self, task: Task) -> Task:
        """Ask the source to undo the move.

        :raise Busy: the task has ended, or the move is past the point where it can be undone.
        :raise Unreachable: the source does not answer.
        """
        if task.ended_state:
            raise Busy(f"task {task.id} has ended already: {task.state}", vm_state=task.vm_state)
        await self._inventory.agent(task.source).cancel(task.id)
        return self._book.get(task.id)

    async def _find(self, request: MoveRequest) -> VmStatus:
        await self._inventory.refresh()
        if request.host is not None:
            self._inventory.host(request.host)
        return self._inventory.vm(request.vm)

    async def _plan(self, request: MoveRequest, vm: VmStatus) -> MoveCheck:
        record = await self._registry.get(vm.definition.uuid)
        _refuse_moving(vm, record)
        hosts = {host.name: host for host in self._inventory.hosts()}
        images = await self._images(vm)
        plan = make_plan(request, vm, hosts, record, secrets.token_hex(8), images)
        return MoveCheck(plan=plan, warnings=warnings(check(request, vm, hosts, record, images)))

    async def _images(self, vm: VmStatus) -> dict[str, DiskImage]:
        """Those of the VM's disks; none where its host does not answer, which the checks say themselves."""
        try:
            return {image.name: image for image in await self._inventory.agent(vm.host).images(vm.definition.uuid)}
        except Unreachable:
            return {}

    @contextmanager
    def _alone(self, vm: VmStatus) -> Iterator[None]:
        """Two requests at once: the second finds the first here, until the first one's task is in the book."""
        self._refuse_second(vm)
        self._starting.add(vm.definition.uuid)
        try:
            yield
        finally:
            self._starting.discard(vm.definition.uuid)

    def _refuse_second(self, vm: VmStatus) -> None:
        uuid, name = vm.definition.uuid, vm.definition.name
        if uuid in self._starting:
            raise Busy(f"a move of {name} is being started", hint="see kvmove task list")
        for task in self._book.running():
            if task.plan is not None and task.plan.vm.uuid == uuid:
                raise Busy(
                    f"{name} moves already: {task.source} to {task.destination}",
                    hint=f"watch it: kvmove task watch {task.id}, or cancel it: kvmove task cancel {task.id}",
                    vm_state=task.vm_state,
                )

    async def _begin(self, task: Task, plan: MovePlan) -> None:
        ticket = secrets.token_hex(_TICKET_BYTES)
        try:
            if plan.kind is not MoveKind.STORAGE:
                await self._inventory.agent(plan.destination.name).expect_incoming(plan, ticket)
        except KvmoveError as error:
            await self._not_begun(task, error)
            raise
        try:
            await self._inventory.agent(plan.source.name).start_move(plan, ticket)
        except Unreachable as error:
            _LOG.warning("move %s: no answer to its start, it may have begun: %s", task.id, error.detail)
        except KvmoveError as error:
            await self._not_begun(task, error)
            raise

    async def _not_begun(self, task: Task, error: KvmoveError) -> None:
        error.vm_state = error.vm_state or task.vm_state
        await self._book.change(task.id, state=TaskState.FAILED, problem=error.problem(), ended=now())

    def _follow(self, task_id: str, plan: MovePlan) -> None:
        following = asyncio.create_task(self._follow_to_end(task_id, plan), name=f"follow {task_id}")
        self._following.add(following)
        following.add_done_callback(self._following.discard)

    async def _follow_to_end(self, task_id: str, plan: MovePlan) -> None:
        """A fault of ours must not leave a task running for ever: it is told in the log and following goes on."""
        while not self._book.get(task_id).ended_state:
            try:
                await self._follower.follow(task_id, plan)
            except Exception:
                _LOG.exception("following move %s failed; trying again", task_id)
                await asyncio.sleep(_AFTER_FAULT_SECONDS)


def _refuse_moving(vm: VmStatus, record: Ownership | None) -> None:
    if record is not None and record.state is OwnershipState.MOVING:
        raise Busy(
            f"{vm.definition.name} moves from {record.owner} to {record.destination} already (move {record.move_id})",
            hint="wait until that move has ended",
            vm_state=f"{vm.state} on {vm.host}",
        )


def _task(plan: MovePlan) -> Task:
    moment = now()
    return Task(
        id=plan.move_id,
        kind="move",
        vm=plan.vm.name,
        source=plan.source.name,
        destination=plan.destination.name,
        state=TaskState.RUNNING,
        created=moment,
        started=moment,
        plan=plan,
        vm_state=f"{plan.power} on {plan.source.name}",
    )
