"""The mirror job against a QEMU that answers as told: what is asked, never asked, and done when it hangs."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kvmove.errors import MoveFailed, Unreachable
from kvmove.qemu.block_jobs import MirrorJob, MirrorSpec, granularity
from kvmove.qemu.monitor import Monitor
from kvmove.units import GIB, KIB
from tests.support.fake_qmp import FakeQmp, fake_qmp

JOB = "mirror-job0"


@dataclass
class Bench:
    """A job between two fake monitors; `jobs` is what query-jobs answers."""

    qemu: FakeQmp
    oob: FakeQmp
    job: MirrorJob
    jobs: list[dict[str, Any]] = field(default_factory=list)
    hung_up: int = 0

    def hang_up(self) -> None:
        self.hung_up += 1

    def set_status(self, status: str, **more: Any) -> None:
        self.jobs[:] = [{"id": JOB, "status": status, **more}]

    def becomes(self, status: str, **more: Any) -> Any:
        """An answer that changes the job's status first."""

        def answer(request: dict[str, Any]) -> dict[str, Any]:
            self.set_status(status, **more)
            return {"return": {}}

        return answer

    def starts(self) -> None:
        def answer(request: dict[str, Any]) -> dict[str, Any]:
            self.set_status("ready")
            self.qemu.event("BLOCK_JOB_READY", device=JOB)
            return {"return": {}}

        self.qemu.answers["blockdev-mirror"] = answer


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with fake_qmp(tmp_path / "qmp") as qemu, fake_qmp(tmp_path / "oob") as oob:
        monitor, second = await Monitor.connect(tmp_path / "qmp"), await Monitor.connect(tmp_path / "oob", oob=True)
        spec = MirrorSpec("disk0", GIB, Path("/run/d0"), "d0")
        bench = Bench(qemu, oob, MirrorJob(monitor, second, spec))
        qemu.answers["query-jobs"] = lambda request: {"return": bench.jobs}
        bench.starts()
        yield bench
        for command in qemu.commands:
            assert command.get("execute") != "job-cancel", "a forced end kills QEMU"
            assert "force" not in command.get("arguments", {}), "a forced end kills QEMU"
        await monitor.close()
        await second.close()


@pytest.mark.parametrize(("size", "unit"), [(GIB, 4 * KIB), (512 * GIB, 4 * KIB), (512 * GIB + 512, 64 * KIB)])
def test_disks_over_512_gib_are_mirrored_in_coarser_units(size: int, unit: int) -> None:
    assert granularity(size) == unit


async def test_the_mirror_copies_nothing_itself_and_waits_for_the_target(bench: Bench) -> None:
    await bench.job.start()
    add, mirror = (c["arguments"] for c in bench.qemu.commands[1:3])
    assert (add["driver"], add["reconnect-delay"], add["server"]) == ("nbd", 0, {"type": "unix", "path": "/run/d0"})
    assert mirror["sync"] == "none"
    assert mirror["copy-mode"] == "write-blocking"
    assert mirror["on-target-error"] == mirror["on-source-error"] == "report"
    assert mirror["auto-dismiss"] is False
    assert (mirror["device"], mirror["target"], mirror["granularity"]) == ("disk0", add["node-name"], 4096)


async def test_a_drain_is_an_empty_transaction(bench: Bench) -> None:
    await bench.job.start()
    await bench.job.drain()
    assert bench.qemu.commands[-1]["execute"] == "transaction"
    assert bench.qemu.commands[-1]["arguments"] == {"actions": []}


async def test_a_job_that_fails_before_it_is_ready_fails_the_start(bench: Bench) -> None:
    def fail(request: dict[str, Any]) -> dict[str, Any]:
        bench.qemu.event("BLOCK_JOB_COMPLETED", device=JOB, error="Connection refused")
        return {"return": {}}

    bench.qemu.answers["blockdev-mirror"] = fail
    with pytest.raises(MoveFailed, match="Connection refused"):
        await bench.job.start()


async def test_a_good_end_is_a_soft_cancel_without_error_and_leaves_nothing(bench: Bench) -> None:
    await bench.job.start()
    bench.qemu.answers["block-job-cancel"] = bench.becomes("concluded")
    await bench.job.finish()
    assert [n for n in bench.qemu.names()[3:] if n != "query-jobs"] == [
        "block-job-cancel", "job-dismiss", "blockdev-del",
    ]  # fmt: skip


async def test_an_error_told_only_by_the_job_list_fails_the_end(bench: Bench) -> None:
    await bench.job.start()
    bench.qemu.answers["block-job-cancel"] = bench.becomes("concluded", error="Input/output error")
    with pytest.raises(MoveFailed, match="Input/output error"):
        await bench.job.finish()


async def test_an_error_told_only_by_an_event_fails_the_end(bench: Bench) -> None:
    await bench.job.start()
    bench.qemu.event("BLOCK_JOB_ERROR", device=JOB, operation="write", action="report")
    bench.qemu.answers["block-job-cancel"] = bench.becomes("concluded")
    with pytest.raises(MoveFailed, match="write error"):
        await bench.job.finish()


@pytest.mark.parametrize("status", ["running", "aborting", "concluded", None])
async def test_a_job_that_is_not_ready_is_never_cancelled_as_a_good_end(bench: Bench, status: str | None) -> None:
    await bench.job.start()
    bench.jobs.clear()
    if status is not None:
        bench.set_status(status)
    with pytest.raises(MoveFailed):
        await bench.job.finish()
    assert "block-job-cancel" not in bench.qemu.names()


async def test_a_qemu_that_hangs_in_the_end_is_yanked(bench: Bench) -> None:
    await bench.job.start()
    bench.qemu.answers["block-job-cancel"] = None
    with pytest.raises(Unreachable):
        await bench.job.finish(timeout=0.05)
    assert bench.oob.commands[-1]["exec-oob"] == "yank"
    assert bench.oob.commands[-1]["arguments"] == {
        "instances": [{"type": "block-node", "node-name": bench.job.target_node}]
    }


async def test_giving_up_hangs_up_first_and_yanks_nobody_who_ends(bench: Bench) -> None:
    await bench.job.start()
    bench.qemu.answers["block-job-cancel"] = bench.becomes("concluded", error="Input/output error")
    await bench.job.abandon(bench.hang_up)
    assert bench.hung_up == 1
    assert bench.oob.names() == ["qmp_capabilities"]
    assert bench.qemu.names()[-1] == "blockdev-del"


async def test_giving_up_a_job_that_is_not_ready_cancels_nothing(bench: Bench) -> None:
    await bench.job.start()
    bench.set_status("running")
    bench.oob.answers["yank"] = bench.becomes("concluded", error="cut")
    await bench.job.abandon(bench.hang_up)
    assert "block-job-cancel" not in bench.qemu.names()
    assert bench.oob.names()[-1] == "yank"


async def test_giving_up_what_never_began_is_fine(bench: Bench) -> None:
    bench.qemu.answers["blockdev-del"] = {"error": {"class": "GenericError", "desc": "Failed to find node"}}
    await bench.job.abandon(bench.hang_up)
    assert bench.hung_up == 1
