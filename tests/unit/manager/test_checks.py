"""Checks over agents that do as they are told: what is probed, what a failed probe becomes, and where a VM could go."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kvmove.errors import Busy, CheckFailed, InvalidInput, NotFound, Unreachable
from kvmove.manager import checks
from kvmove.manager.follow import Follower
from kvmove.manager.inventory import Inventory
from kvmove.manager.moves import Moves
from kvmove.manager.task_book import TaskBook
from kvmove.manager.task_store import TaskStore
from kvmove.model.finding import Severity
from kvmove.model.host import HostInfo
from kvmove.model.move import HostRef, MoveRequest
from kvmove.model.probe import ListenRequest, QemuFacts
from kvmove.registry.sqlite import SqliteRegistry
from tests.support import samples
from tests.support.fake_agent import FakeAgent
from tests.support.samples import H1, H2, WEB1

REQUEST = MoveRequest(vm="web1", host="h2")
H3 = HostRef(name="h3", control="10.0.0.3:7441")


class Site:
    """web1 runs on h1; h2 and h3 are there too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agents = {ref.name: FakeAgent(ref) for ref in (H1, H2, H3)}
        self.h1, self.h2, self.h3 = self.agents.values()
        self.h1.status_of_vms = [samples.vm(accelerator="kvm")]

    async def open(self, stack: AsyncExitStack) -> None:
        registry = SqliteRegistry(self.folder / "registry.db")
        stack.push_async_callback(registry.close)
        await registry.claim(WEB1, "h1")
        await registry.claim(samples.DB1, "h2")
        book = await TaskBook(TaskStore(self.folder / "tasks.db")).open()
        stack.push_async_callback(book.close)
        inventory = Inventory([H1, H2, H3], lambda ref: self.agents[ref.name])
        self.moves = Moves(inventory, registry, book, Follower(inventory, registry, book))
        stack.push_async_callback(self.moves.close)

    async def codes(self) -> list[str]:
        return [finding.code for finding in (await self.moves.check(REQUEST)).findings]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    async with AsyncExitStack() as stack:
        await site.open(stack)
        yield site


async def test_nothing_wrong_is_no_finding_and_the_networks_were_tried(site: Site) -> None:
    assert await site.codes() == []
    assert (site.h1.probed, site.h2.probed) == (1, 0)


async def test_all_is_said_at_once_as_a_list_blockers_first(site: Site) -> None:
    site.h2.deaf = ("br0",)
    site.h2.clock_ahead = 90.0
    site.h2.qemu = samples.qemu_facts("sse4.2")
    site.h2.here = site.h2.here.model_copy(update={"missing_files": ("/boot/vmlinuz",)})
    site.h1.unreachable = {"10.10.0.2": "Connection refused"}
    with pytest.raises(CheckFailed) as caught:
        await site.moves.check(REQUEST)
    found = {it["code"]: it["severity"] for it in caught.value.problem()["checks"]}
    blockers = ["bridge-apart", "boot-file-missing", "cpu-feature-missing", "data-port-unreachable"]
    assert found == {**dict.fromkeys(blockers, Severity.BLOCKER), "clocks-differ": Severity.WARNING}
    assert list(found)[-1] == "clocks-differ"


async def test_a_clock_that_is_behind_is_told_as_such(site: Site) -> None:
    site.h2.clock_ahead = -30.0
    (found,) = (await site.moves.check(REQUEST)).findings
    assert (found.code, "30.0 s behind" in found.what) == ("clocks-differ", True)


async def test_a_probe_that_fails_is_a_warning_that_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> QemuFacts:
        raise Unreachable("QEMU did not say")

    async def busy(request: ListenRequest) -> None:
        raise Busy("too many listen")

    monkeypatch.setattr(site.h2, "probe_qemu", broken)
    monkeypatch.setattr(site.h2, "probe_listen", busy)
    found = (await site.moves.check(REQUEST)).findings
    assert [it.code for it in found] == ["probe-failed", "probe-failed"]
    assert "which CPU features and machine types h2 offers was not found out: QEMU did not say" in found[0].what
    assert "too many listen" in found[1].what


async def test_a_start_uses_what_its_check_has_just_found_and_a_check_looks_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.moves.check(REQUEST)
    await site.moves.check(REQUEST)
    assert site.h1.probed == 2
    await site.moves.start(REQUEST)
    assert site.h1.probed == 2
    monkeypatch.setattr(checks, "FRESH_SECONDS", 0.0)
    vm = samples.vm(accelerator="kvm")
    await site.moves.checks.check(REQUEST, vm, fresh=False)
    assert site.h1.probed == 3


async def test_what_cannot_be_compared_is_not_probed(site: Site) -> None:
    await site.moves.checks.find(REQUEST)
    site.h2.down = True
    with pytest.raises(CheckFailed) as caught:
        await site.moves.check(REQUEST)
    assert [it["code"] for it in caught.value.checks] == ["host-silent"]
    assert site.h1.probed == 0


async def test_all_hosts_are_ranked_and_one_that_reports_rule_out_is_not_probed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def without_bridges() -> HostInfo:
        return samples.host_info("h2").model_copy(update={"bridges": ()})

    monkeypatch.setattr(site.h2, "host", without_bridges)
    site.h3.clock_ahead = 90.0
    ranking = await site.moves.rank(MoveRequest(vm="web1"))
    assert (ranking.vm, ranking.source) == ("web1", "h1")
    assert [(it.host, it.plan is not None, [f.code for f in it.findings]) for it in ranking.hosts] == [
        ("h3", True, ["clocks-differ"]),
        ("h2", False, ["bridge-missing"]),
    ]
    assert site.h1.probed == 1
    assert ranking.hosts[0].memory_free == samples.host_info("h3").memory_free
    assert ranking.hosts[0].why.startswith("no blockers, 1 warning, 2.0 GiB of disks to copy, no running moves")


async def test_a_ranking_counts_the_moves_under_way(site: Site) -> None:
    other = samples.vm("h2", definition=samples.definition("db1", samples.DB1), accelerator="kvm")
    site.h2.status_of_vms = [other]
    await site.moves.start(REQUEST)
    ranking = await site.moves.rank(MoveRequest(vm="db1"))
    assert [(it.host, it.running_moves) for it in ranking.hosts] == [("h3", 0), ("h1", 1)]
    with pytest.raises(Busy):
        await site.moves.rank(MoveRequest(vm="web1"))


async def test_a_ranking_is_about_all_hosts(site: Site) -> None:
    with pytest.raises(InvalidInput, match="names host h2"):
        await site.moves.rank(REQUEST)
    with pytest.raises(NotFound):
        await site.moves.rank(MoveRequest(vm="web9"))


async def test_the_network_between_two_hosts_is_told_pair_by_pair(site: Site) -> None:
    site.h2.deaf = ("br0",)
    report = await site.moves.checks.network("h1", "h2")
    (pair,) = report.pairs
    assert (pair.near, pair.far, pair.network, pair.reachable) == ("mig0", "mig0", "10.10.0.0/24", True)
    assert [(it.bridge, it.connected) for it in report.bridges] == [("br0", False)]
    with pytest.raises(InvalidInput):
        await site.moves.checks.network("h1", "h1")
    with pytest.raises(NotFound):
        await site.moves.checks.network("h1", "h9")
