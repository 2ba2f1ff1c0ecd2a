"""The report of a move, as a person reads it."""

import pytest
from rich.console import Console

from kvmove.cli.report import digest_words, outcome, render_report
from kvmove.model.move import DiskReport, MoveReport, NicProgress, NicState
from kvmove.model.task import TaskState
from kvmove.units import GIB, MIB
from tests.support import samples


def drawn(report: MoveReport) -> str:
    console = Console(width=100)
    with console.capture() as shown:
        console.print(render_report(report))
    return "\n".join(line.rstrip() for line in shown.get().splitlines())


def test_every_figure_is_there() -> None:
    text = drawn(samples.report())
    for said in (
        "Time  24.3 s",
        "copying disks   18.1 s",
        "Downtime  85 ms",
        "sync disks     30 ms",
        "commit        8.2 ms",
        "Sent  3.0 GiB",
        "mig1  1.0 GiB",
        "Memory  600.0 MiB in 3 rounds",
        "Encrypted  yes, TLS 1.3",
        "Disk root  2.0 GiB",
        "guest writes forwarded:  16,384",
        "guest writes ignored:    3,072 (the copy had yet to come there)",
        "copied again:            4.0 MiB",
        "12.1 s: sync, the guest outran the wire",
        "equal on both sides: aa11",
    ):
        assert said in text


def test_what_became_of_a_nic_is_told() -> None:
    nics = (
        NicProgress(nic="mig0", sent=2 * GIB, average=117 * MIB),
        NicProgress(nic="mig1", sent=GIB, average=60 * MIB, times_left=2, seconds_left=8.3),
        NicProgress(
            nic="mig2", sent=1, average=1, times_left=1, seconds_left=20.0, state=NicState.LEFT, reason="timed out"
        ),
    )
    text = drawn(samples.report().model_copy(update={"nics": nics}))
    assert "mig0: 117.0 MiB/s on average\n" in text
    assert "mig1: 60.0 MiB/s on average; left 2 times, for 8.3 s in all\n" in text
    assert "left once, for 20.0 s in all; left at the end: timed out\n" in text


def test_a_report_of_nothing_is_no_stumbling_block() -> None:
    empty = MoveReport(
        seconds=0, phases=(), downtime_ms=0, switchover_ms={}, bytes_per_nic={}, memory_bytes=0, memory_rounds=1,
        disks=(), encrypted=False,
    )  # fmt: skip
    text = drawn(empty)
    assert "0 B in 1 round" in text
    assert "Encrypted  no" in text


@pytest.mark.parametrize(
    ("source", "destination", "said"),
    [("", "", ""), ("a", "a", "equal on both sides: a"), ("a", "b", "DIFFERENT: source a, destination b")],
)
def test_digests_are_compared_for_the_reader(source: str, destination: str, said: str) -> None:
    disk = DiskReport(name="root", size=GIB, source_digest=source, destination_digest=destination)
    assert digest_words(disk) == said


def test_a_digest_of_one_side_alone_is_not_called_equal() -> None:
    assert digest_words(DiskReport(name="root", size=GIB, source_digest="a")).startswith("DIFFERENT")


def test_success_without_a_report_says_that_there_is_none() -> None:
    assert "No report" in outcome(samples.task(TaskState.SUCCEEDED))
