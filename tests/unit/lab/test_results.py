"""The keys of the results are a promise."""

import json
from pathlib import Path

from kvmove.lab import results
from kvmove.lab.results import (
    CompareResult,
    ContestantResult,
    CopyRun,
    DemoResult,
    DowntimeResult,
    DowntimeRun,
    SoakResult,
)

DEMO = {
    "seconds": 6.5,
    "downtime_ms": {"qemu": 40.0, "guest": 52.0, "network": 60.0},
    "writes_per_second": {"before": 2500.0, "copy": 2000.0, "after": 2400.0},
    "longest_gap_ms": {"copy": 20.0, "switchover": 70.0},
    "bytes": {"mig0": 1, "mig1": 2},
    "ledger": {"acknowledged": 10, "lost": 0},
    "digests_equal": True,
    "dual_run": False,
}


def test_the_demo_is_written_with_the_keys_promised(tmp_path: Path) -> None:
    path = results.write(tmp_path / "results", "demo", DemoResult.model_validate(DEMO))
    assert path == tmp_path / "results" / "demo.json"
    assert json.loads(path.read_text()) == DEMO


def test_a_soak_is_good_only_when_nothing_was_found() -> None:
    clean = {"hops": 2, "lost": 0, "corrupt_pages": 0, "dual_runs": 0, "digests_equal": True, "guest_oops": 0}
    assert SoakResult.model_validate(clean).good
    for key, value in (
        ("lost", 1),
        ("corrupt_pages", 1),
        ("dual_runs", 1),
        ("digests_equal", False),
        ("guest_oops", 1),
    ):
        assert not SoakResult.model_validate({**clean, key: value}).good


def test_the_comparison_has_the_keys_promised() -> None:
    assert set(CompareResult.model_fields) == {"kvmove", "kvmove_two_nics", "libvirt_sync"}
    assert set(ContestantResult.model_fields) == {
        "seconds", "writes_per_second", "longest_gap_ms", "downtime_ms", "bytes_sent", "allocated_bytes",
    }  # fmt: skip


def test_downtime_has_the_keys_promised() -> None:
    assert set(DowntimeResult.model_fields) == {"runs", "summary", "copies", "lost"}
    assert set(DowntimeRun.model_fields) == {"kind", "seconds", "guest_ms", "agent_ms"}
    assert set(CopyRun.model_fields) == {
        "way", "size", "data", "seconds", "guest_ms", "agent_ms", "longest_gap_ms", "moved_by", "agent_io",
        "guest_wrote",
    }  # fmt: skip
