"""The init of a lab's host: a service that is held, and released before it has ended, is started all the same."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmove.lab.host_init import HostConfig, Init, Service

STUBBORN = "trap '' TERM; echo up; while [ ! -e {end} ]; do sleep 0.01; done"


@pytest.fixture
def end(tmp_path: Path) -> Iterator[Path]:
    """The file that ends the service."""
    yield tmp_path / "end"
    (tmp_path / "end").touch()


def ended(init: Init, service: Service) -> None:
    process = service.process
    while service.process is process:
        init.reap()
        time.sleep(0.01)


def test_what_is_released_before_it_has_ended_is_started_when_it_has(tmp_path: Path, end: Path) -> None:
    log = tmp_path / "log"
    service = Service("agent", ["sh", "-c", STUBBORN.format(end=end)], str(log))
    init = Init(HostConfig("h1", services=[service]))
    init.obey({"do": "start"})
    while not log.read_text():
        time.sleep(0.01)
    init.obey({"do": "hold", "service": "agent"})
    init.obey({"do": "release", "service": "agent"})
    end.touch()
    ended(init, service)
    init.start_due()
    assert service.process is not None
    ended(init, service)
    assert service.due is None, "it ended by itself, and in order"
