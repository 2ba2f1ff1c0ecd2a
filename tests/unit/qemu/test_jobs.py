"""Waiting for one of QEMU's jobs among others."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kvmove.errors import Unreachable
from kvmove.qemu import jobs
from kvmove.qemu.jobs import CONCLUDED, OVER, READY, Job
from kvmove.qemu.monitor import Monitor
from tests.support.fake_qmp import FakeQmp, fake_qmp


class Bench:
    """A job `mine` between others; `statuses` are what the questions find, the last one for ever."""

    def __init__(self, qemu: FakeQmp, monitor: Monitor) -> None:
        self.qemu = qemu
        self.job = Job(monitor, "mine")
        self.statuses: list[str | None] = []
        self.error: str | None = None
        qemu.answers["query-jobs"] = self._answer

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        mine = [] if status is None else [{"id": "mine", "status": status, "error": self.error}]
        return {"return": [{"id": "another", "status": CONCLUDED, "error": "not mine"}, *mine]}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with fake_qmp(tmp_path / "qmp") as qemu:
        monitor = await Monitor.connect(tmp_path / "qmp")
        yield Bench(qemu, monitor)
        await monitor.close()


@pytest.mark.parametrize("status", [READY, CONCLUDED, None])
async def test_a_state_that_is_there_is_not_waited_for(bench: Bench, status: str | None) -> None:
    bench.statuses = [status]
    assert await bench.job.wait((READY, *OVER), timeout=5) == status


async def test_a_change_right_after_the_answer_is_not_missed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 30.0)
    bench.statuses = ["running", CONCLUDED]
    answer = bench._answer

    def answer_and_change(request: dict[str, Any]) -> dict[str, Any]:
        change = {"status": CONCLUDED, "id": "mine"}
        asyncio.get_running_loop().call_soon(lambda: bench.qemu.event("JOB_STATUS_CHANGE", **change))
        return answer(request)

    bench.qemu.answers["query-jobs"] = answer_and_change
    assert await bench.job.wait(OVER, timeout=20) == CONCLUDED


async def test_a_change_that_no_event_tells_is_found_all_the_same(bench: Bench) -> None:
    bench.statuses = ["running", CONCLUDED]
    assert await bench.job.wait(OVER, timeout=20) == CONCLUDED


async def test_another_jobs_end_is_not_taken_for_this_ones(bench: Bench) -> None:
    bench.statuses = ["running"]
    bench.qemu.event("JOB_STATUS_CHANGE", status=CONCLUDED, id="another")
    with pytest.raises(Unreachable, match="mine"):
        await bench.job.wait(OVER, timeout=0.1)


@pytest.mark.parametrize("error", [None, "Input/output error"])
async def test_a_job_is_dismissed_with_its_own_error(bench: Bench, error: str | None) -> None:
    bench.statuses, bench.error = [CONCLUDED], error
    assert await bench.job.dismiss() == error
    assert bench.qemu.commands[-1]["arguments"] == {"id": "mine"}


async def test_a_job_that_is_gone_has_no_error_and_is_not_dismissed(bench: Bench) -> None:
    bench.statuses = [None]
    assert await bench.job.dismiss() is None
    assert "job-dismiss" not in bench.qemu.names()
