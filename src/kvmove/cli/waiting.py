"""Waits for a task's end and shows it as it goes; Ctrl-C leaves it alone (see `interrupt`).

Invariant: this command's end, however it comes, changes nothing about the task, unless Ctrl-C came twice. A manager
that does not answer is asked again until it does: the move needs no manager to go on.
"""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from kvmove.cli.display import Display
from kvmove.cli.interrupt import LEAVE_SECONDS, Stance, pressed, timed_out
from kvmove.cli.output import Printer
from kvmove.errors import KvmoveError, Unreachable
from kvmove.model.task import Task

_RETRY_SECONDS = 1.0


class Tasks(Protocol):
    """What is needed of the manager: see `client.ManagerClient`."""

    def watch_task(self, task_id: str, after: int = -1) -> AsyncGenerator[Task, None]: ...
    async def cancel_task(self, task_id: str) -> Task: ...


class Detached(Exception):
    """The person left; the task goes on."""

    def __init__(self, task: Task) -> None:
        super().__init__(task.id)
        self.task = task


async def wait_for_end(tasks: Tasks, task: Task, display: Display, printer: Printer) -> Task:
    """Show `task` until it ends and return it as it is then.

    :raise Detached: the person left by Ctrl-C.
    :raise NotFound, NotAllowed: the manager answers, and will not tell.
    """
    return await _Waiting(tasks, task, display, printer).run()


class _Waiting:
    def __init__(self, tasks: Tasks, task: Task, display: Display, printer: Printer) -> None:
        self._tasks = tasks
        self._task = task
        self._display = display
        self._printer = printer
        self._stance = Stance.WAITING
        self._key = asyncio.Event()

    async def run(self) -> Task:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._key.set)
        following = asyncio.create_task(self._follow())
        try:
            with self._display.drawing():
                self._display.show(self._task)
                while not following.done():
                    await self._listen(following)
                return await following
        finally:
            following.cancel()
            loop.remove_signal_handler(signal.SIGINT)

    async def _follow(self) -> Task:
        silent = False
        while not self._task.ended_state:
            try:
                async with aclosing(self._tasks.watch_task(self._task.id, self._task.revision)) as states:
                    async for task in states:
                        self._task, silent = task, False
                        self._display.show(task)
                        if task.ended_state:
                            return task
            except Unreachable as error:
                if not silent:
                    self._printer.note(f"The manager does not answer; trying again. ({error.detail})")
                silent = True
            await asyncio.sleep(_RETRY_SECONDS)
        return self._task

    async def _listen(self, following: asyncio.Task[Task]) -> None:
        """Wait for the next thing to happen: the end, a Ctrl-C, or the time for a second one is over."""
        key = asyncio.create_task(self._key.wait())
        timeout = LEAVE_SECONDS if self._stance is Stance.LEAVING else None
        try:
            await asyncio.wait({following, key}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            key.cancel()
        if following.done():
            return
        if self._key.is_set():
            self._key.clear()
            self._stance = pressed(self._stance)
            await self._announce()
        else:
            self._stance = timed_out(self._stance)
        if self._stance is Stance.DETACHED:
            raise Detached(self._task)

    async def _announce(self) -> None:
        if self._stance is Stance.LEAVING:
            self._printer.note(f"Leaving it alone. Press Ctrl-C again within {LEAVE_SECONDS:.0f} s to cancel the move.")
        elif self._stance is Stance.CANCELLING:
            self._printer.note("Asking to cancel; waiting for the source to be free again.")
            try:
                await self._tasks.cancel_task(self._task.id)
            except KvmoveError as error:
                self._printer.note(f"Not cancelled: {error.detail}")
                self._stance = Stance.WAITING
