"""Evacuation, rules, datastores and power: what is recommended for a known picture, and why."""

from uuid import UUID

from kvmove.model.host import DatastoreInfo, HostStatus
from kvmove.model.move import MoveKind
from kvmove.model.placement import Action, Cause, Rule, RuleKind
from kvmove.model.vm import VmState, VmStatus
from kvmove.placement.choose import choices
from kvmove.placement.cluster import picture
from kvmove.placement.compute import Tuning, balance
from kvmove.placement.evacuation import Terms, evacuate
from kvmove.placement.hold import Hold
from kvmove.placement.power import PowerTuning, power
from kvmove.placement.rules import Rules
from kvmove.placement.storage import StorageTuning, balance_storage
from kvmove.units import GIB
from tests.support.clusters import host, vm, with_stores

A, B, C = vm("a", "h1"), vm("b", "h1"), vm("c", "h1", disk="local")
OFF = vm("off", "h1", state=VmState.OFF)


def three(*on_h1: tuple[VmStatus, float]) -> list[HostStatus]:
    return [host("h1", on_h1), host("h2"), host("h3", memory=64 * GIB)]


def test_an_evacuation_lists_what_remains_and_moves_what_is_off_last() -> None:
    hosts, vms = three((A, 1), (B, 2), (C, 0)), [A, B, C, OFF]
    plan = evacuate(picture(hosts, vms), "h1", Rules())
    assert [step.vm for step in plan.steps] == ["a", "b", "off"]
    assert [step.kind for step in plan.steps] == [MoveKind.HOST] * 3
    assert [it.vm for it in plan.remains] == ["c"]
    assert "does not reach datastore local of h1, where disk root is" in plan.remains[0].why
    assert "--move-disks" in plan.remains[0].why
    assert plan.at_once == 4, "a NIC of 1 Gbit/s has room for so many"
    everything = evacuate(picture(hosts, vms), "h1", Rules(), Terms(move_disks=True))
    assert (len(everything.steps), everything.remains, everything.at_once) == (4, (), 2)


def test_an_evacuation_takes_as_long_as_its_bytes_on_the_wire() -> None:
    plan = evacuate(picture(three((A, 1), (B, 1)), [A, B]), "h1", Rules())
    wire = 2 * 1.2 * GIB / 125_000_000
    assert [step.starts for step in plan.steps] == [0.0, 0.0]
    assert wire < plan.seconds < wire + 7
    one_by_one = evacuate(picture(three((A, 1), (B, 1)), [A, B]), "h1", Rules(), Terms(at_once=1))
    assert one_by_one.steps[1].starts == one_by_one.steps[0].ends


def test_a_host_under_maintenance_takes_nothing() -> None:
    cluster = picture(three((A, 4)), [A], closed=frozenset({"h2", "h3"}))
    found, against = choices([cluster.by_name["a"]], cluster, Rules())
    assert found == []
    assert against == {"h2": "takes no VMs now", "h3": "takes no VMs now"}


def test_a_broken_rule_is_mended_and_one_that_cannot_be_is_told() -> None:
    apart = Rule(name="spread", kind=RuleKind.APART, vms=("a", "b"))
    pinned = Rule(name="pin", kind=RuleKind.MUST, vms=("c",), hosts=("h2",))
    plan = balance(picture(three((A, 0), (B, 0), (C, 0)), [A, B, C]), Rules([apart, pinned]), Tuning())
    assert [(it.vm, it.cause) for it in plan.recommendations] == [("b", Cause.RULE)]
    assert "rule pin does not hold: c is on h1" in plan.notes[0]


def test_vms_that_stay_together_move_together() -> None:
    rule = Rule(name="pair", kind=RuleKind.TOGETHER, vms=("a", "b"))
    hot = vm("z", "h1")
    plan = balance(picture(three((A, 1), (B, 1), (hot, 2)), [A, B, hot]), Rules([rule]), Tuning())
    went = {it.vm: it.destination for it in plan.recommendations}
    assert went.get("a") == went.get("b")
    assert went


def test_a_move_that_costs_more_than_it_helps_is_not_made() -> None:
    """Its disk would move too, for hours."""
    big = vm("big", "h1", disk="local", size=4000 * GIB)
    hosts = three((big, 2), (A, 2))
    roomy = [
        with_stores(it, [DatastoreInfo(name="local", id=UUID(int=n), path="/x", size=9000 * GIB, free=8000 * GIB)], {})
        for n, it in enumerate(hosts, 1)
    ]
    plan = balance(picture(roomy, [big]), Rules(), Tuning(threshold=0.01, margin=0.0, move_disks=True))
    assert plan.recommendations == ()


def _stores(full: int, slow_ms: float) -> HostStatus:
    stores = [
        DatastoreInfo(name="s1", id=UUID(int=1), path="/s1", size=100 * GIB, free=(100 - full) * GIB),
        DatastoreInfo(name="s2", id=UUID(int=2), path="/s2", size=100 * GIB, free=90 * GIB),
    ]
    return with_stores(host("h1"), stores, {"s1": slow_ms, "s2": 2.0})


DISKS = [vm(f"d{number}", "h1", disk="s1", size=10 * GIB) for number in range(3)]


def test_a_full_datastore_gives_disks_up_to_its_limit_and_then_no_more() -> None:
    found = balance_storage(picture([_stores(95, 1)], DISKS), {"flash": ("s1", "s2")}, StorageTuning())
    assert [(it.kind, it.source, it.destination) for it in found] == [(MoveKind.STORAGE, "s1", "s2")] * 2
    assert "s1 is 95 % full (limit 80 %)" in found[0].reason
    assert balance_storage(picture([_stores(75, 1)], DISKS), {"flash": ("s1", "s2")}, StorageTuning()) == []
    assert balance_storage(picture([_stores(95, 1)], DISKS), {"other": ("s1", "s9")}, StorageTuning()) == []


def test_a_slow_datastore_gives_one_disk_and_is_looked_at_again_later() -> None:
    found = balance_storage(picture([_stores(20, 40)], DISKS), {"flash": ("s1", "s2")}, StorageTuning())
    assert len(found) == 1
    assert "a write to s1 takes 40 ms (limit 15 ms), one to s2 2 ms" in found[0].reason


def test_an_idle_host_is_powered_off_and_a_busy_cluster_gets_one_back() -> None:
    tuning = PowerTuning(low=0.45, high=0.81, keep=2)
    idle = power(picture(three((A, 0.1)), [A]), Rules(), tuning, ())
    assert [(it.action, it.host) for it in idle] == [(Action.POWER_OFF, "h2")]
    assert power(picture(three((A, 0.1)), [A]), Rules(), tuning._replace(keep=3), ()) == []
    spared = power(picture(three((A, 0.1)), [A]), Rules(), tuning._replace(never=("h2",)), ())
    assert [it.host for it in spared] == ["h3"]
    busy = vm("busy", "h1"), vm("busier", "h2")
    full = [host("h1", [(busy[0], 4)]), host("h2", [(busy[1], 4)])]
    woken = power(picture(full, busy), Rules(), tuning, ("h3",))
    assert [(it.action, it.host) for it in woken] == [(Action.POWER_ON, "h3")]


def test_a_host_with_a_vm_that_cannot_leave_stays_on() -> None:
    hosts = [host("h1", [(C, 0)]), host("h2", [(vm("x", "h2", disk="local"), 0)])]
    vms = [C, vm("x", "h2", disk="local")]
    assert power(picture(hosts, vms), Rules(), PowerTuning(keep=1), ()) == []


def test_only_what_lasts_without_a_break_has_lasted() -> None:
    hold = Hold().seen(True, 10).seen(True, 50)
    assert hold.lasting(70) == 60
    assert hold.seen(False, 80).seen(True, 90).lasting(100) == 10
    assert Hold().lasting(5) is None


def test_balancing_brings_no_vms_together_that_are_to_be_apart() -> None:
    other = vm("other", "h2")
    hosts, vms = [host("h1", [(A, 2), (B, 2)]), host("h2", [(other, 0)])], [A, B, other]
    rule = Rule(name="spread", kind=RuleKind.APART, vms=("a", "other"))
    assert [it.vm for it in balance(picture(hosts, vms), Rules(), Tuning()).recommendations] == ["a"]
    assert [it.vm for it in balance(picture(hosts, vms), Rules([rule]), Tuning()).recommendations] == ["b"]
