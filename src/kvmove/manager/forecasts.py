"""Forecasts of moves: asks the hosts for samples, all at once, and learns from the moves that this manager has seen.

A forecast changes nothing and holds nothing up: it takes at most SAMPLE_SECONDS, and what no host tells in that time
is missing from it, which it says. Its past is the book of tasks: each keeps the forecast that it began with and what
it really was, so there is nothing else to store and nothing that could disagree with it.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kvmove.errors import KvmoveError
from kvmove.manager.inventory import Inventory
from kvmove.manager.task_book import TaskBook
from kvmove.migration import forecast_scores
from kvmove.migration.forecast import forecast
from kvmove.migration.forecast_inputs import Seen, inputs_of
from kvmove.model.forecast import Forecast, GuestSample, StorageSample, WireSample
from kvmove.model.image import DiskImage
from kvmove.model.move import MoveKind, MovePlan, MoveRequest

_LOG = logging.getLogger(__name__)

SAMPLE_SECONDS = 2.5
"""So long a forecast may take; a host that is slower is left out of it."""

GOOD_FOR_SECONDS = 60.0
"""A forecast that is older says nothing about a move that begins now."""

_TICKET_BYTES = 32

T = TypeVar("T")


class Forecasts:
    """The forecasts of one manager. `clock` gives seconds and never goes back."""

    def __init__(self, inventory: Inventory, book: TaskBook, clock: Callable[[], float] = time.monotonic) -> None:
        self._inventory = inventory
        self._book = book
        self._clock = clock
        self._given: dict[str, tuple[float, Forecast]] = {}

    async def of(self, request: MoveRequest, plan: MovePlan) -> Forecast:
        """What the move will be. It is remembered for the start of the same request."""
        seen = await self._sample(plan)
        past = forecast_scores.scored(self._book.all())
        corrections = forecast_scores.corrections(plan, past)
        given = forecast(inputs_of(plan, seen), corrections, forecast_scores.past_error(past))
        self._forget_old()
        self._given[_key(request)] = (self._clock(), given)
        return given

    def recall(self, request: MoveRequest) -> Forecast | None:
        """What was forecast for this request a moment ago, if it was; nobody is asked."""
        self._forget_old()
        _, given = self._given.pop(_key(request), (0.0, None))
        return given

    def _forget_old(self) -> None:
        oldest = self._clock() - GOOD_FOR_SECONDS
        self._given = {key: given for key, given in self._given.items() if given[0] >= oldest}

    async def _sample(self, plan: MovePlan) -> Seen:
        ticket = secrets.token_hex(_TICKET_BYTES)
        source = self._inventory.agent(plan.source.name)
        over_wire = plan.kind is not MoveKind.STORAGE and (plan.moves_memory or not plan.over_storage)
        writer = source if plan.over_storage else self._inventory.agent(plan.destination.name)

        async def wire() -> WireSample:
            await self._inventory.agent(plan.destination.name).expect_sample(plan, ticket)
            return await source.sample_wire(plan, ticket)

        images: list[DiskImage] | None
        guest: GuestSample | None
        sent: WireSample | None
        storage: StorageSample | None
        images, guest, sent, storage = await asyncio.gather(
            _within(lambda: source.images(plan.vm.uuid), wanted=bool(plan.disks)),
            _within(lambda: source.sample_guest(plan, ticket), wanted=True),
            _within(wire, wanted=over_wire),
            _within(lambda: writer.sample_storage(plan, ticket), wanted=bool(plan.disks)),
        )
        return Seen({image.name: image for image in images or ()}, guest, sent, storage)


async def _within(ask: Callable[[], Awaitable[T]], *, wanted: bool) -> T | None:
    """The answer, if it is wanted and comes in time."""
    if not wanted:
        return None
    try:
        async with asyncio.timeout(SAMPLE_SECONDS):
            return await ask()
    except (KvmoveError, TimeoutError) as error:
        _LOG.info("a forecast goes without a sample: %s", error or "it took too long")
        return None


def _key(request: MoveRequest) -> str:
    return request.model_dump_json()
