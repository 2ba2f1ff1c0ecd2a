"""What a move depends on, watched beside its work: the operator's cancel, the disks' threads, both QEMUs, the agents.

QEMU knows no deadline and does not notice a destination that died at pre-switchover; this does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NoReturn, TypeVar

from kvmove.client.agent import AgentClient
from kvmove.errors import Busy, Cancelled, KvmoveError, MoveFailed, NotAllowed, NotFound, Unreachable
from kvmove.memory.relay_process import RelayProcess
from kvmove.model.move import MovePlan
from kvmove.mover.disk_move import DiskMove
from kvmove.qemu.instance import Instance
from kvmove.qemu.monitor import Event

T = TypeVar("T")

LOOK_SECONDS = 0.05
ASK_SECONDS = 0.5
SILENCE_SECONDS = 10.0
"""So long may the destination's agent not answer before the move is given up; while disks are copied: `patience`."""

TOUCH_SECONDS = 3.0
"""A destination that has answered so lately is in touch."""

BROKEN_SECONDS = 0.2

INTERRUPTED = "interrupted"
"""What a destination says of the move whose agent was restarted."""

DEATH_SECONDS = 0.1
"""A QEMU that was killed closes its channels so long before it is seen to have ended."""

BLAME_SECONDS = 0.5
"""So long may a guest that stands still wait for a better word on why its move failed."""


class VmLost(MoveFailed):
    """The VM's own QEMU ended at the source: the VM does not run any more, whatever the move does."""


def vm_lost(plan: MovePlan) -> VmLost:
    """That, of this VM."""
    return VmLost(
        f"The QEMU of VM {plan.vm.name} ended while the VM moved.",
        hint=f"The VM's disks are whole at the source: start it there, kvmove vm start {plan.vm.name}.",
    )


class MoveWatch:
    """Watches one move; `run` ends only by raising what it saw. Without `instance` the VM is off; without
    `destination` there is no other host in it. `patience` is how long (seconds) its agent may be silent,
    and `on_restart` goes on after a restart of it; without, a restart ends the move."""

    def __init__(self, plan: MovePlan, instance: Instance | None, destination: AgentClient | None = None) -> None:
        self.cancelled = asyncio.Event()
        self.destination_is_ready = False
        self.disks: DiskMove | None = None
        self.relay: RelayProcess | None = None
        self._broken_since: float | None = None
        self._asking: asyncio.Task[dict[str, Any]] | None = None
        self._plan = plan
        self.instance = instance
        self._destination = destination
        self._heard = self._answered = time.monotonic()
        self.heard: Callable[[Mapping[str, Any]], None] = _ignore
        """Told what the destination answers."""
        self.patience = SILENCE_SECONDS
        self.on_restart: Callable[[], Awaitable[None]] | None = None
        self.guest_is_off = False
        self.close = instance.monitor.on_event(self._listen) if instance is not None else _nothing

    def _listen(self, event: Event) -> None:
        if event.name == "SHUTDOWN":
            self.guest_is_off = True

    def silence(self) -> float:
        """Seconds since the destination's agent last answered; 0 while nothing is asked of it."""
        return time.monotonic() - self._answered if self.destination_is_ready else 0.0

    def is_in_touch(self) -> bool:
        """Whether the destination answers, and a stream to it is open."""
        has_stream = self.disks is None or not self._plan.disks or self.disks.alone is None
        return has_stream and self.silence() < TOUCH_SECONDS

    def vm_lives(self) -> bool:
        """Whether the VM's QEMU has not ended; a VM that is off has none that could."""
        return self.instance is None or self.instance.process.is_alive()

    async def run(self) -> NoReturn:
        """:raise KvmoveError: the move must end, and why."""
        self._heard = asked = time.monotonic()
        while True:
            self._look()
            if self.destination_is_ready and time.monotonic() - asked >= ASK_SECONDS:
                asked = time.monotonic()
                await self._ask_destination()
            await asyncio.sleep(LOOK_SECONDS)

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work`, unless what a move depends on fails meanwhile, or the operator cancels.

        :raise KvmoveError: the work's, or what was seen.
        """
        task = asyncio.ensure_future(work)
        watch = asyncio.ensure_future(self.run())
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the agent ends: no work goes on beside what is undone
            task.cancel()
            watch.cancel()
            await asyncio.gather(task, watch, return_exceptions=True)
            raise
        if task.done():
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError, KvmoveError):
                await watch
            error = task.exception()
            if isinstance(error, KvmoveError):
                await self.blame(error)
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, KvmoveError):
            await task
        seen = watch.exception()
        if isinstance(seen, MoveFailed):
            await self.blame(seen)
        return watch.result()

    def _look(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled("The operator cancelled the move.")
        if not self.vm_lives():
            raise vm_lost(self._plan)
        if self.guest_is_off:
            raise MoveFailed(
                f"The guest of VM {self._plan.vm.name} powered off while it moved.",
                hint=f"Start it where it is, then move it: kvmove vm start {self._plan.vm.name}",
            )
        if self.disks is not None and self.disks.failure is not None:
            raise self.disks.failure
        self._look_at_memory()

    def _look_at_memory(self) -> None:
        """A channel that the destination closes once it has all looks broken for a moment, until `relay` is None."""
        why = self.relay.why() if self.relay is not None else ""
        if not why:
            self._broken_since = None
            return
        self._broken_since = self._broken_since or time.monotonic()
        if time.monotonic() - self._broken_since > BROKEN_SECONDS:
            raise MoveFailed(f"The memory could not be sent: {why}.")

    def memory_is_sent(self) -> None:
        """Its channels may end from now on."""
        self.relay = None

    async def blame(self, error: KvmoveError) -> None:
        """The work failed with `error`. If it did because the destination did, that is what the task should say.

        :raise MoveFailed: it was so.
        """
        if not self.destination_is_ready or self._destination is None or isinstance(error, VmLost):
            return
        try:
            for _ in range(2):
                async with asyncio.timeout(BLAME_SECONDS):
                    self._judge(await self._destination.incoming(self._plan.move_id))
                await asyncio.sleep(DEATH_SECONDS)
        except (Unreachable, TimeoutError) as silence:
            said = f"{error.detail.rstrip('.')}; the destination's agent does not answer."
            raise MoveFailed(said, hint="See whether it runs; then move again.") from silence
        except (NotFound, NotAllowed, Busy) as gone:
            raise self._gave_up(gone) from error

    async def _ask_destination(self) -> None:
        """Ask, or wait for the answer to what was asked in the phase before: a question that is cut short takes its
        connection with it, and a new one costs the switchover three round trips."""
        if self._destination is None:
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._destination.incoming(self._plan.move_id))
            self._asking.add_done_callback(_note_answer)
        try:
            answer = await asyncio.shield(self._asking)
        except (NotFound, NotAllowed, Busy) as error:
            raise self._gave_up(error) from error
        except Unreachable as error:
            if time.monotonic() - self._heard > self.patience:
                raise Unreachable(f"The destination's agent does not answer: {error.detail}") from error
            return
        except KvmoveError as error:
            raise MoveFailed(f"The destination cannot go on: {error.detail}") from error
        self._heard = self._answered = time.monotonic()
        if answer.get("state") == INTERRUPTED and self.on_restart is not None:
            await self._go_on(self.on_restart)
            return
        self._judge(answer)
        self.heard(answer)

    async def _go_on(self, go_on: Callable[[], Awaitable[None]]) -> None:
        try:
            await go_on()
        except Unreachable:
            return  # it is asked again
        except KvmoveError as error:
            raise MoveFailed(
                f"The destination's agent was restarted while the VM moved, and cannot go on: {error.detail}",
                hint="Move again.",
            ) from error

    @staticmethod
    def _gave_up(error: KvmoveError) -> MoveFailed:
        return MoveFailed(
            f"The destination gave up the move: {error.detail}", hint="Was its agent restarted? Move again."
        )

    @staticmethod
    def _judge(answer: Mapping[str, Any]) -> None:
        if answer.get("failure"):
            raise MoveFailed(f"The destination cannot go on: {answer['failure']}.")
        if answer.get("state") == INTERRUPTED:
            raise MoveFailed("The destination's agent was restarted while the VM moved.", hint="Move again.")
        if answer.get("state") != "prepared":
            raise MoveFailed(f"The destination says that the move is {answer.get('state')}.")


def _note_answer(asking: asyncio.Task[dict[str, Any]]) -> None:
    """Nobody may wait for it any more."""
    if not asking.cancelled():
        asking.exception()


def _ignore(answer: Mapping[str, Any]) -> None:
    """Nobody wants to know."""


def _nothing() -> None:
    """There is no QEMU whose events were listened to."""
