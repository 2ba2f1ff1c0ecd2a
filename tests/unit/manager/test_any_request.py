"""Whatever the interface's own description allows, or forbids, is asked: the answer is never a fault of ours.

The application is the real one on a real door, over agents that do as they are told. Schemathesis makes the requests
from `/openapi.json`; a new route is asked without a word here.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from kvmove.manager.listeners import Listener, tcp_door
from kvmove.manager.users import WrongSecrets
from kvmove.pki.identity import Role
from tests.unit.manager.conftest import Served

FEW, MANY = 1, 60
ENDLESS = "/events$"
"""Streams: a reader that waits for their end waits for ever. They are held by tests of their own."""


class Door(NamedTuple):
    """Where the manager serves in clear, and an admin's token."""

    url: str
    token: str


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """A manager in a thread of its own: the requests are made by blocking code."""
    ready, doors, ends = threading.Event(), list[Door](), list[asyncio.Event]()
    loops = list[asyncio.AbstractEventLoop]()

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            served = Served(tmp_path)
            await served.open(stack, WrongSecrets(limit=1_000_000))
            tcp = stack.enter_context(tcp_door("127.0.0.1:0"))
            plain = Listener(served.app, tcp, None)
            serving = asyncio.create_task(plain.run_until_stopped())
            await plain.listening.wait()
            token = (await served.new_user(Role.ADMIN)).token
            doors.append(Door(f"http://127.0.0.1:{tcp.getsockname()[1]}", token))
            ends.append(asyncio.Event())
            loops.append(asyncio.get_running_loop())
            ready.set()
            await ends[0].wait()
            served.book.end_watches()
            plain.stop()
            await serving

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="manager")
    thread.start()
    assert ready.wait(30)
    try:
        yield doors[0]
    finally:
        loops[0].call_soon_threadsafe(ends[0].set)
        thread.join()


def ask_all(door: Door, examples: int) -> set[str]:
    """Ask every operation so many times with what fits its description, and with what does not; which were asked."""
    headers = {"Authorization": f"Bearer {door.token}"}
    schema = schemathesis.openapi.from_url(f"{door.url}/openapi.json", headers=headers)
    ending = schema.exclude(path_regex=ENDLESS)
    asked, session = set[str](), requests.Session()
    for found in ending.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            @given(case=operation.as_strategy(generation_mode=mode))
            def never_a_fault(case: Any) -> None:
                response = case.call(headers=headers, timeout=20, session=session)
                assert response.status_code < 500, (case.as_curl_command(), response.text)

            with suppress(Unsatisfiable):  # nothing can be wrong about a request that has no parts
                never_a_fault()
        asked.add(operation.label)
    session.close()
    return asked


@pytest.mark.timeout(600)
def test_no_request_makes_the_manager_fail(door: Door) -> None:
    assert {"GET /api/v1/vms", "POST /api/v1/moves", "POST /pki/v1/join"} <= ask_all(door, FEW)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_no_request_of_very_many_makes_the_manager_fail(door: Door) -> None:
    ask_all(door, MANY)
