"""What blocks a move, what is only said, and what the plan is when nothing blocks."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvmove
from kvmove.errors import CheckFailed, NotFound
from kvmove.migration.plan import check, make_plan
from kvmove.migration.routes import routes
from kvmove.model.finding import Finding, Severity
from kvmove.model.host import DatastoreInfo, HostInfo, HostStatus, MigrationNic
from kvmove.model.move import MoveKind, MovePlan, MoveRequest, Via
from kvmove.model.ownership import Ownership, OwnershipState
from kvmove.model.vm import DiskFormat, VmState, VmStatus
from kvmove.units import GIB, MIB
from tests.support.nouns import VM, host_status, move_plan, vm_status

OWNED = Ownership(vm=VM, owner="h1", epoch=3)
MOVING = Ownership(vm=VM, owner="h1", epoch=3, state=OwnershipState.MOVING, move_id="m0", destination="h3")


@dataclass(frozen=True)
class Facts:
    """All that a plan is made of; a good case until changed."""

    request: MoveRequest = field(default_factory=lambda: MoveRequest(vm="web", host="h2"))
    vm: VmStatus = field(default_factory=vm_status)
    source: HostStatus = field(default_factory=lambda: host_status(1))
    destination: HostStatus = field(default_factory=lambda: host_status(2))
    ownership: Ownership | None = OWNED

    def ask(self, **changes: Any) -> "Facts":
        return replace(self, request=MoveRequest.model_validate(self.request.model_dump() | changes))

    def of_vm(self, **changes: Any) -> "Facts":
        return replace(self, vm=self.vm.model_copy(update=changes))

    def of_definition(self, **changes: Any) -> "Facts":
        return self.of_vm(definition=self.vm.definition.model_copy(update=changes))

    def of_source(self, **changes: Any) -> "Facts":
        return replace(self, source=_with_info(self.source, changes))

    def of_destination(self, **changes: Any) -> "Facts":
        return replace(self, destination=_with_info(self.destination, changes))

    def check(self) -> list[Finding]:
        return check(self.request, self.vm, self._hosts(), self.ownership)

    def plan(self) -> MovePlan:
        return make_plan(self.request, self.vm, self._hosts(), self.ownership, "m1")

    def _hosts(self) -> dict[str, HostStatus]:
        return {"h1": self.source, "h2": self.destination}


def _with_info(host: HostStatus, changes: dict[str, Any]) -> HostStatus:
    assert host.info is not None
    return host.model_copy(update={"info": host.info.model_copy(update=changes)})


def info(number: int) -> HostInfo:
    found = host_status(number).info
    assert found is not None
    return found


def nic(name: str, address: str, speed: int = 0) -> MigrationNic:
    return MigrationNic(name=name, address=address, speed=speed)


SILENT = {"reachable": False, "reason": "connection refused"}
SHARED = DatastoreInfo(name="local", id=UUID(int=10), path="/srv/x", size=100 * GIB, free=50 * GIB)  # h1's own
SMALL = DatastoreInfo(name="local", id=UUID(int=20), path="/srv/local", size=4 * GIB, free=3 * GIB - 1)


def cached(facts: "Facts") -> "Facts":
    """Its disk `data` goes through the host's page cache."""
    root, data = facts.vm.definition.disks
    return facts.of_definition(disks=(root, data.model_copy(update={"cache": "writeback"})))


Change = Callable[[Facts], Facts]
BLOCKED: dict[str, tuple[Change, str, str]] = {
    "same host": (lambda f: f.ask(host="h1"), "on h1 already", "another host"),
    "source silent": (
        lambda f: replace(f, source=f.source.model_copy(update=SILENT)),
        *("h1 does not answer: connection refused", "kvmove-agent"),
    ),
    "destination silent": (
        lambda f: replace(f, destination=f.destination.model_copy(update=SILENT | {"info": None})),
        *("h2 does not answer: connection refused", r"192\.168\.0\.2:7441"),
    ),
    "incoming": (lambda f: f.of_vm(state=VmState.INCOMING), "web is incoming", "another move"),
    "crashed": (lambda f: f.of_vm(state=VmState.CRASHED), "web is crashed", "start it again"),
    "unregistered": (lambda f: replace(f, ownership=None), "no record of web", "restart kvmove-agent on h1"),
    "moving": (lambda f: replace(f, ownership=MOVING), "moving from h1 to h3 already .move m0", "cancel it"),
    "busy": (lambda f: f.of_vm(move_id="m0"), "still busy with move m0", "wait"),
    "owned elsewhere": (
        lambda f: replace(f, ownership=OWNED.model_copy(update={"owner": "h3"})),
        *("belongs to h3", "do not start"),
    ),
    "older epoch": (lambda f: f.of_vm(epoch=2), "epoch 3.*epoch 2", "do not start"),
    "other kvmove": (lambda f: f.of_destination(version="0.2.0"), r"h2 runs 0\.2\.0", "same version"),
    "odd kvmove": (lambda f: f.of_destination(version="dev"), "h2 runs dev", "same version"),
    "older qemu": (lambda f: f.of_source(qemu_version="8.0.1"), r"h2 has an older QEMU .7\.2\.22", "on h2 to 8.0.1"),
    "accelerator": (lambda f: f.of_destination(accelerator="kvm"), "runs with tcg, and would run with kvm", "host"),
    "no kvm there": (
        lambda f: f.of_vm(accelerator="kvm").of_definition(accelerator="kvm"),
        *("needs kvm, and h2 has only tcg", "hardware virtualization"),
    ),
    "memory": (
        lambda f: f.of_destination(memory_free=512 * MIB - 1),
        *("512.0 MiB of memory free, and web needs", "choose another host"),
    ),
    "no datastore": (lambda f: f.ask(datastore="ssd"), "no datastore ssd", "--datastore: local, fast"),
    "no datastores": (lambda f: f.of_destination(datastores=()), "no datastore local", "agent.toml"),
    "no room": (lambda f: f.of_destination(datastores=(SMALL,)), "need 3.0 GiB", "free 1 B there"),
    "shared and cached": (
        lambda f: cached(f).of_destination(datastores=(SHARED,)),
        *("disk data stays on a datastore that both hosts share", 'cache = "none"'),
    ),
    "no such disk": (lambda f: f.ask(disks={"swap": "fast"}), "web has no disk swap", "root, data"),
    "no datastore for one": (lambda f: f.ask(disks={"data": "ssd"}), "no datastore ssd", "local, fast"),
    "no bridge": (lambda f: f.of_destination(bridges=("br1",)), "no bridge br0", "make bridge br0 on h2"),
    "unknown nic": (lambda f: f.ask(nics=("mig0", "eth7")), "h1 has no migration NIC eth7", "mig0, mig1"),
    "no nics": (lambda f: f.of_source(nics=()), "h1 has none; h2 has mig0 10.10.0.2/24", "common network"),
    "no common network": (
        lambda f: f.of_destination(nics=(nic("mig0", "10.99.0.2/24"),)),
        *(r"h1 has mig0 10\.10\.0\.1/24 \(119\.2 MiB/s\), mig1 .*; h2 has mig0 10\.99", "common network"),
    ),
}


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert Facts().check() == []


def test_the_plan_says_what_both_agents_shall_do() -> None:
    plan = Facts().ask(nics=("mig0",), verify=True, max_downtime_ms=500).plan()
    route = move_plan().routes[0].model_copy(update={"speed": 125_000_000})
    assert plan == move_plan().model_copy(update={"routes": (route,), "verify": True, "max_downtime_ms": 500})


def test_a_datastore_that_is_asked_for_takes_all_disks_and_is_in_the_definition() -> None:
    plan = Facts().ask(datastore="fast").plan()
    expected = [("root", "local", "fast"), ("data", "local", "fast")]
    assert [(it.name, it.source_datastore, it.destination_datastore) for it in plan.disks] == expected
    assert [disk.datastore for disk in plan.vm.disks] == ["fast", "fast"]
    assert plan.vm.model_copy(update={"disks": ()}) == vm_status().definition.model_copy(update={"disks": ()})


def test_the_plan_tells_both_images_of_a_disk() -> None:
    plan = Facts().ask(datastore="fast").plan()
    placement = plan.disks[1].model_copy(update={"source_format": DiskFormat.QCOW2})
    old, new = plan.old_disk(placement), plan.new_disk(placement)
    assert (old.name, old.datastore, old.format, old.size) == ("data", "local", DiskFormat.QCOW2, 2 * GIB)
    assert (new.name, new.datastore, new.format, new.size) == ("data", "fast", DiskFormat.RAW, 2 * GIB)


def test_disks_stay_on_a_datastore_that_both_hosts_reach_whatever_it_is_called_there() -> None:
    facts = Facts().of_destination(datastores=(SHARED.model_copy(update={"name": "san", "free": 0}),))
    plan = facts.plan()
    assert plan.kind is MoveKind.HOST
    assert plan.disks == ()
    assert [(it.name, it.source_datastore, it.destination_datastore) for it in plan.stays] == [
        ("root", "local", "san"),
        ("data", "local", "san"),
    ]
    assert [disk.datastore for disk in plan.vm.disks] == ["san", "san"]


def test_a_datastore_of_the_same_name_is_another_where_its_identity_differs() -> None:
    assert Facts().plan().kind is MoveKind.UNIFIED
    assert Facts().plan().stays == ()


def reached(facts: "Facts") -> "Facts":
    """h2's datastore `fast` is one that h1 reaches too, and calls `san`."""
    san = info(2).datastores[1].model_copy(update={"name": "san"})
    return facts.of_source(datastores=(*info(1).datastores, san)).ask(datastore="fast")


def test_disks_go_over_the_storage_network_where_the_source_reaches_the_datastore() -> None:
    plan = reached(Facts()).plan()
    assert (plan.kind, plan.over_storage) == (MoveKind.UNIFIED, True)
    assert [(it.destination_datastore, it.reached_as) for it in plan.disks] == [("fast", "san"), ("fast", "san")]
    assert plan.disks[0].why == "h1 reaches the datastore too"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda f: f.ask(via=Via.MIGRATION), "as asked for"),
        (cached, "disk data goes through the page cache"),
        (lambda f: f.ask(disks={"data": "local"}), "h1 does not reach local"),
    ],
)
def test_all_disks_take_the_migration_nics_where_one_has_to(change: Change, why: str) -> None:
    plan = change(reached(Facts())).plan()
    assert not plan.over_storage
    assert {(it.reached_as, it.why) for it in plan.disks} == {(None, why)}


def test_a_storage_network_that_is_asked_for_and_not_there_blocks() -> None:
    [found] = Facts().ask(via=Via.STORAGE).check()
    assert found.severity is Severity.BLOCKER
    assert "h1 does not reach local" in found.what


def test_of_two_disks_of_a_datastore_one_may_leave_and_one_stay() -> None:
    plan = Facts().of_destination(datastores=(SHARED, info(2).datastores[1])).ask(disks={"data": "fast"}).plan()
    assert [it.name for it in plan.disks] == ["data"]
    assert [it.name for it in plan.stays] == ["root"]


def test_without_a_host_disks_alone_move() -> None:
    plan = Facts().ask(host=None, datastore="fast").plan()
    assert plan.kind is MoveKind.STORAGE
    assert (plan.source, plan.destination, plan.routes) == (plan.source, plan.source, ())
    assert [(it.name, it.destination_datastore) for it in plan.disks] == [("root", "fast"), ("data", "fast")]
    assert Facts().ask(host="h1", datastore="fast").plan() == plan, "the same, said otherwise"


def test_a_storage_move_needs_room_and_somewhere_to_go() -> None:
    small = info(1).datastores[1].model_copy(update={"free": 3 * GIB - 1})
    facts = Facts().of_source(datastores=(info(1).datastores[0], small))
    same = replace(facts, destination=facts.source)
    for request, said in (({"datastore": "fast"}, "need 3.0 GiB"), ({"datastore": "local"}, "on h1 already")):
        [found] = same.ask(host=None, **request).check()
        assert (found.severity, said in found.what) == (Severity.BLOCKER, True), found.what


def test_each_disk_goes_where_it_is_told() -> None:
    plan = Facts().ask(disks={"data": "fast"}).plan()
    assert [(it.name, it.destination_datastore) for it in plan.disks] == [("root", "local"), ("data", "fast")]


@pytest.mark.parametrize(("change", "what", "hint"), BLOCKED.values(), ids=BLOCKED)
def test_each_blocker_is_found_alone_with_its_remedy(change: Change, what: str, hint: str) -> None:
    facts = change(Facts())
    found = facts.check()
    assert [finding.severity for finding in found] == [Severity.BLOCKER], found
    with pytest.raises(CheckFailed, match=what) as caught:
        facts.plan()
    assert caught.value.detail == found[0].what
    assert re.search(hint, caught.value.hint), caught.value.hint
    assert caught.value.vm_state == f"{facts.vm.state} on h1"


def test_all_blockers_are_named_at_once() -> None:
    with pytest.raises(CheckFailed) as caught:
        Facts().of_destination(bridges=(), memory_free=0, datastores=()).plan()
    for part in ("bridge br0", "memory free", "no datastore local"):
        assert part in caught.value.detail
    assert caught.value.hint.count(";") >= 2


def test_consequences_are_not_listed_beside_their_cause() -> None:
    """A VM that is gone has no accelerator to compare, and a silent host no NICs."""
    facts = Facts().of_vm(state=VmState.CRASHED).of_destination(nics=(), bridges=())
    assert len(facts.check()) == 1
    silent = replace(facts.of_vm(state=VmState.UNKNOWN), source=facts.source.model_copy(update=SILENT))
    assert [finding.what for finding in silent.check()] == ["h1 does not answer: connection refused"]


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.PAUSED, VmState.OFF])
def test_a_vm_moves_as_it_is(state: VmState) -> None:
    plan = Facts().of_vm(state=state).plan()
    assert plan.power == state.value
    assert plan.moves_memory == (state is not VmState.OFF)


def test_a_vm_that_is_off_needs_no_memory_no_accelerator_and_on_shared_disks_no_nic() -> None:
    off = Facts().of_vm(state=VmState.OFF)
    changed = off.of_destination(memory_free=0, accelerator="kvm")
    assert changed.check() == []
    assert [finding.what for finding in off.of_destination(nics=()).check()] != []
    assert cached(off).of_destination(datastores=(SHARED,), nics=()).check() == []


def test_a_vm_that_asks_for_emulation_moves_to_a_host_with_kvm() -> None:
    assert Facts().of_destination(accelerator="kvm").of_definition(accelerator="tcg").check() == []


def test_an_emulated_vm_with_a_memory_size_that_qemu_corrupts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own QEMU command line never gives such a size; this is the guard should that change."""
    monkeypatch.setattr("kvmove.migration.preflight.guest_memory", lambda definition, _: definition.memory)
    found = Facts().check()
    assert "multiple of 256 KiB" in found[0].what and "64 KiB less" in found[0].remedy
    assert Facts().of_source(qemu_version="9.0.0").of_destination(qemu_version="9.0.0").check() == []
    assert Facts().of_vm(accelerator="kvm").of_destination(accelerator="kvm").check() == []
    assert Facts().of_definition(memory=512 * MIB - 65536).check() == []


WARNED: dict[str, tuple[Change, str]] = {
    "patch version": (lambda f: f.of_destination(version="0.1.7"), "kvmove versions differ"),
    "another qemu": (lambda f: f.of_source(qemu_version="7.2.9"), "the QEMU versions differ"),
    "newer qemu": (lambda f: f.of_destination(qemu_version="8.0.1"), "the QEMU versions differ"),
    "nearly full": (
        lambda f: f.of_destination(datastores=(SMALL.model_copy(update={"free": 3 * GIB + 1}),)),
        "95 % full",
    ),
    "plain": (lambda f: f.ask(encrypt=False), "unencrypted"),
}


@pytest.mark.parametrize(("change", "what"), WARNED.values(), ids=WARNED)
def test_a_warning_is_said_and_stops_nothing(change: Change, what: str) -> None:
    facts = change(Facts())
    found = facts.check()
    assert [finding.severity for finding in found] == [Severity.WARNING]
    assert what in found[0].what
    assert facts.plan().move_id == "m1"


def test_the_managers_own_version_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvmove, "__version__", "0.1.9")
    assert "manager 0.1.9" in Facts().check()[0].what


def test_a_host_that_was_not_given_is_the_callers_mistake() -> None:
    with pytest.raises(NotFound):
        Facts().ask(host="h9").check()


def test_nics_that_meet_are_paired_and_as_fast_as_the_slower_end() -> None:
    source = info(1).model_copy(update={"nics": (nic("a", "10.0.0.1/24", 100), nic("b", "10.1.0.1/24"))})
    theirs = (nic("x", "10.1.0.2/24", 70), nic("y", "10.0.0.2/24", 50), nic("z", "10.0.0.3/24"), nic("w", "bad"))
    destination = info(2).model_copy(update={"nics": theirs, "data_port": 17451})
    found = [(it.nic, it.source_address, it.destination_address, it.speed) for it in routes(source, destination)]
    expected = [
        ("a", "10.0.0.1", "10.0.0.2", 50),
        ("a", "10.0.0.1", "10.0.0.3", 100),
        ("b", "10.1.0.1", "10.1.0.2", 70),
    ]
    assert found == expected
    assert {it.port for it in routes(source, destination)} == {17451}
    assert [it.nic for it in routes(source, destination, ("b",))] == ["b"]


def test_two_nics_with_one_address_or_another_prefix_do_not_meet() -> None:
    def meet(one: str, other: str) -> bool:
        source = info(1).model_copy(update={"nics": (nic("a", one),)})
        return bool(routes(source, info(2).model_copy(update={"nics": (nic("x", other),)})))

    assert meet("10.0.0.1/24", "10.0.0.2/24")
    assert not meet("10.0.0.1/24", "10.0.0.1/24")
    assert not meet("10.0.0.1/24", "10.0.0.2/16")
    assert not meet("10.0.0.1/24", "10.0.1.2/24")


STORES = st.lists(
    st.builds(
        DatastoreInfo,
        name=st.sampled_from(["local", "fast", "big"]),
        id=st.sampled_from([UUID(int=n) for n in (10, 11, 20, 21, 22)]),
        path=st.just("/srv/x"),
        size=st.just(100 * GIB),
        free=st.integers(0, 6 * GIB),
    ),
    unique_by=(lambda store: store.name, lambda store: store.id),
)


@given(stores=STORES, wanted=st.sampled_from([None, "local", "fast", "big"]), free=st.integers(0, GIB))
def test_a_plan_always_has_room_and_a_place_for_every_disk(
    stores: list[DatastoreInfo], wanted: str | None, free: int
) -> None:
    facts = Facts().of_destination(datastores=tuple(stores), memory_free=free).ask(datastore=wanted)
    try:
        plan = facts.plan()
    except CheckFailed as error:
        blockers = [finding for finding in facts.check() if finding.severity is Severity.BLOCKER]
        assert blockers and all(finding.what in error.detail and finding.remedy in error.hint for finding in blockers)
        return
    places = {store.name: store for store in stores}
    assert free >= plan.vm.memory
    assert sorted(disk.name for disk in (*plan.disks, *plan.stays)) == ["data", "root"]
    own = {store.name: store.id for store in info(1).datastores}
    assert all(places[disk.destination_datastore].id == own["local"] for disk in plan.stays)
    for name in {disk.destination_datastore for disk in plan.disks}:
        assert sum(disk.size for disk in plan.disks if disk.destination_datastore == name) <= places[name].free
        assert places[name].id != own["local"]


def test_a_move_from_another_host_than_was_meant_is_refused() -> None:
    assert Facts().ask(from_host="h1").plan().source.name == "h1"
    with pytest.raises(CheckFailed, match="asked for from h3, and web is on h1 now"):
        Facts().ask(from_host="h3").plan()


@pytest.mark.parametrize(("kind", "fine"), [("unified", True), ("host", False), ("storage", False)])
def test_another_kind_of_move_than_was_meant_is_refused(kind: str, fine: bool) -> None:
    found = [finding.code for finding in Facts().ask(only_kind=kind).check()]
    assert ("kind-differs" in found) is not fine


def test_disks_alone_are_another_kind_of_move_too() -> None:
    within = Facts().ask(host=None, datastore="fast")
    within = replace(within, destination=within.source)
    assert [it.code for it in within.ask(only_kind="host").check()] == ["kind-differs"]
    assert "kind-differs" not in [it.code for it in within.ask(only_kind="storage").check()]
