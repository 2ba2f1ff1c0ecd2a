"""`kvmove check`, `kvmove move --dry-run` and `kvmove host check-network` as a person and a program see them."""

import json

import pytest

from kvmove.errors import CheckFailed
from kvmove.migration.findings import blocker, warning
from kvmove.migration.ranking import ORDER, rank
from kvmove.model.move import MoveCheck
from kvmove.model.probe import BridgeProbe, NetworkReport, PairView
from kvmove.model.ranking import MoveRanking, RankedHost
from kvmove.units import GIB
from tests.support import samples
from tests.support.fake_manager import FakeManager
from tests.unit.cli.conftest import Kvmove

FULL = blocker("datastore-full", "datastore local on h2 has 1.0 GiB free; the disks need 2.0 GiB", "free 1.0 GiB there")
APART = warning("clocks-differ", "the clock of h2 is 3.0 s ahead", "use chrony")
REFUSED = CheckFailed(
    FULL.what, hint=FULL.remedy, vm_state="running on h1", step="plan",
    checks=[it.model_dump(mode="json") for it in (FULL, APART)],
)  # fmt: skip
BLOCKED_LINES = [
    "Blocked: datastore local on h2 has 1.0 GiB free; the disks need 2.0 GiB [datastore-full]",
    "    do: free 1.0 GiB there",
    "Warning: the clock of h2 is 3.0 s ahead [clocks-differ]",
    "    do: use chrony",
]
CHECKED = MoveCheck(plan=samples.plan(), findings=(APART,))


@pytest.mark.parametrize("words", [("check", "web1", "--to", "h2"), ("move", "web1", "h2", "--dry-run")])
def test_what_blocks_is_one_finding_a_line_with_its_remedy_below(
    words: tuple[str, ...], manager: FakeManager, kvmove: Kvmove
) -> None:
    manager.answers["POST /moves:check"] = REFUSED
    result = kvmove(*words)
    assert result.code == 3
    assert result.out.splitlines()[:5] == ["web1 (running on h1) cannot move to h2: 1 blocker", *BLOCKED_LINES]
    said = kvmove(*words, "-o", "json")
    assert said.code == 3 and said.err == ""
    assert json.loads(said.out)["plan"] is None
    assert [it["code"] for it in json.loads(said.out)["findings"]] == ["datastore-full", "clocks-differ"]


def test_a_move_that_is_refused_tells_its_findings_too(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["POST /moves"] = REFUSED
    result = kvmove("move", "web1", "h2", "-q")
    assert result.code == 3
    assert result.err.splitlines()[-4:] == BLOCKED_LINES
    assert [it["code"] for it in json.loads(kvmove("move", "web1", "h2", "-o", "json").err)["checks"]] == [
        "datastore-full",
        "clocks-differ",
    ]


def test_findings_of_another_version_do_not_hide_what_is_wrong(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["POST /moves:check"] = CheckFailed("no room", hint="make room", checks=[{"odd": True}])
    result = kvmove("check", "web1", "--to", "h2")
    assert result.code == 3
    assert "why:   no room" in result.err and "hint:  make room" in result.err


def test_the_plan_and_the_warnings_where_nothing_blocks(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["POST /moves:check"] = CHECKED
    result = kvmove("check", "web1", "--to", "h2", "--nic", "mig0", "--disk", "root=fast")
    assert result.code == 0
    assert "unified move" in result.out and "clocks-differ" in result.out
    ((_, body),) = manager.asked
    assert (body["host"], body["nics"], body["disks"]["root"]["datastore"]) == ("h2", ["mig0"], "fast")


RANKED = MoveRanking(
    vm="web1",
    source="h1",
    hosts=rank(
        [
            RankedHost(host="h2", findings=(FULL,), memory_free=GIB, memory_total=8 * GIB),
            RankedHost(host="h3", plan=samples.plan(), memory_free=GIB, memory_total=8 * GIB, running_moves=1),
        ]
    ),
    order=ORDER,
)


@pytest.mark.parametrize("words", [("check", "web1"), ("check", "web1", "--all", "--datastore", "fast")])
def test_without_a_host_all_are_listed_best_first_with_the_reason(
    words: tuple[str, ...], manager: FakeManager, kvmove: Kvmove
) -> None:
    manager.answers["POST /moves:rank"] = RANKED
    result = kvmove(*words)
    assert result.code == 0
    lines = result.out.splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["1", "h3", "yes"], ["2", "h2", "no"]]
    assert "1 running move" in lines[1] and ORDER in result.out and BLOCKED_LINES[0] in lines
    assert kvmove(*words, "-o", "name").out == "h3\n"
    assert [it["host"] for it in json.loads(kvmove(*words, "-o", "json").out)["hosts"]] == ["h3", "h2"]


def test_where_every_host_is_blocked_the_exit_code_says_so(manager: FakeManager, kvmove: Kvmove) -> None:
    manager.answers["POST /moves:rank"] = RANKED.model_copy(update={"hosts": RANKED.hosts[1:]})
    assert kvmove("check", "web1").code == 3


def test_one_host_and_all_hosts_exclude_each_other(manager: FakeManager, kvmove: Kvmove) -> None:
    assert kvmove("check", "web1", "--to", "h2", "--all").code == 2
    assert manager.asked == []


def test_the_network_is_a_table_of_pairs_and_one_of_bridges(manager: FakeManager, kvmove: Kvmove) -> None:
    ends = {"source_address": "10.10.0.1", "destination_address": "10.10.0.2", "network": "10.10.0.0/24"}
    sizes = {"near_mtu": 1500, "far_mtu": 1500, "mtu": 1500}
    fine = PairView.model_validate(
        {"near": "mig0", "far": "mig0", "reachable": True, "round_trip_ms": 0.25, "whole": True, **sizes, **ends}
    )
    mixed = fine.model_copy(update={"near": "mig1", "near_mtu": 9000, "whole": False})
    silent = fine.model_copy(update={"near": "mig2", "reachable": False, "reason": "no answer", "network": ""})
    bridges = (
        BridgeProbe(bridge="br0", connected=True),
        BridgeProbe(bridge="br1", connected=False),
        BridgeProbe(bridge="br2", connected=None, reason="h1 cannot send: it is down"),
    )
    report = NetworkReport(source="h1", destination="h2", pairs=(fine, mixed, silent), bridges=bridges, problems=("x",))
    manager.answers["POST /hosts/h1:check-network"] = report
    out = kvmove("host", "check-network", "h1", "h2").out
    for said in (
        "0.25 ms",
        "9000 / 1500, but packets of 1500 are lost",
        "no: no answer",
        "not in common",
        "no: frames sent",
        "not found out: h1 cannot send",
        "Warning: x",
    ):
        assert said in out, said
    assert json.loads(kvmove("host", "check-network", "h1", "h2", "-o", "json").out) == report.model_dump(mode="json")
