"""Passes an operator's word on a running move to the agent that runs it: its source's.

The manager keeps nothing of it: what the move makes of the word comes back with its progress, so a restart of the
manager changes nothing.
"""

from kvmove.errors import Busy
from kvmove.manager.inventory import Inventory
from kvmove.manager.moves import Moves
from kvmove.manager.task_book import TaskBook
from kvmove.model.task import Task, TaskChange, TaskState
from kvmove.model.terms import TermsChange, TermsOrder, Word


class TaskSteering:
    """The words that a running task takes. Each raises Unreachable when the source does not answer."""

    def __init__(self, inventory: Inventory, book: TaskBook, moves: Moves) -> None:
        self._inventory = inventory
        self._book = book
        self._moves = moves

    async def say(self, task: Task, verb: str, by: str) -> Task:
        """`verb` is pause, resume or switchover.

        :raise Busy: the task does not run, or the move is past that. :raise CheckFailed: it would harm the guest.
        """
        _require_running(task)
        await self._inventory.agent(task.source).say(_move_id(task), verb, Word(by=by))
        return self._book.get(task.id)

    async def change(self, task: Task, change: TaskChange, by: str) -> Task:
        """Change what a queued task was asked for, or the terms of a running one's move.

        :raise Busy: it has ended, its guest stands for the switchover already, or it runs and has no priority any more.
        """
        if task.state is TaskState.QUEUED:
            return await self._moves.change(task, change)
        _require_running(task)
        if change.priority is not None:
            raise Busy(
                f"task {task.id} is running: its priority counts only while it is queued", vm_state=task.vm_state
            )
        terms = TermsChange(bandwidth=change.bandwidth, max_downtime_ms=change.max_downtime_ms)
        await self._inventory.agent(task.source).change_terms(_move_id(task), TermsOrder(by=by, terms=terms))
        return self._book.get(task.id)


def _move_id(task: Task) -> str:
    """The move's name at the agents: a task that had to begin anew has a second move."""
    return task.plan.move_id if task.plan else task.id


def _require_running(task: Task) -> None:
    if task.state is not TaskState.RUNNING:
        raise Busy(f"task {task.id} does not run: it is {task.state}", vm_state=task.vm_state)
