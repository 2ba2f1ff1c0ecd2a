"""REST: all that changes, as one stream (server-sent events), and what changed lately."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from kvmove.errors import InvalidInput
from kvmove.manager.events import EVERYTHING, EventLog
from kvmove.model.event import Event, PastEvents, Reset, Topic


def _topics(
    topics: Annotated[str, Query(description="`task`, `vm`, `host`, with commas between; all by default")] = "",
) -> frozenset[Topic]:
    """A dependency, so that what is wrong is an answer: a stream that has begun can say nothing any more.

    :raise InvalidInput: there is no such topic.
    """
    named = [part.strip() for part in topics.split(",") if part.strip()]
    try:
        return frozenset(Topic(name) for name in named) or EVERYTHING
    except ValueError as error:
        raise InvalidInput(f"topics: {topics!r} is not known", hint=f"there are: {', '.join(Topic)}") from error


def events_router(log: EventLog) -> APIRouter:
    """`/events` is for a page, or a program, that shows what is; `/events:past` for one that asks what was."""
    router = APIRouter(tags=["events"])

    @router.get("/events", response_class=EventSourceResponse)
    async def events(
        wanted: Annotated[frozenset[Topic], Depends(_topics)],
        last_event_id: Annotated[int | None, Header(description="go on after this revision")] = None,
    ) -> AsyncIterator[ServerSentEvent]:
        """`event: reset`, the present state, then each change: `event: task`, `vm` or `host`, `id:` its revision, data
        an Event.

        With `Last-Event-ID` the stream goes on after that event; a reset comes only if too much has happened since.
        The present state are all hosts and VMs and the tasks that have not ended. A reader that is slow misses figures
        that have changed again, and no change of state. FastAPI adds a comment every 15 s.
        """
        async for event in log.read(last_event_id, wanted):
            yield _sent(event)

    @router.get("/events:past")
    async def past_events(
        since: Annotated[datetime, Query(description="RFC 3339, with its offset")],
        wanted: Annotated[frozenset[Topic], Depends(_topics)],
    ) -> PastEvents:
        """The changes of state since a moment, as far as this manager remembers: the last two thousand or so, since
        its start."""
        if since.tzinfo is None:
            raise InvalidInput("since: a time without its offset", hint="write for example 2026-11-23T10:00:00Z")
        return PastEvents(events=tuple(log.since(since.isoformat(), wanted)), complete_since=log.first_kept)

    return router


def _sent(event: Event | Reset) -> ServerSentEvent:
    """A reset has no id: a reader that is cut off before the present state is complete must get it anew."""
    if isinstance(event, Reset):
        return ServerSentEvent(event="reset", raw_data=event.model_dump_json())
    return ServerSentEvent(event=event.topic, id=str(event.revision), raw_data=event.model_dump_json())
