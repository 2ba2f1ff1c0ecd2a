"""A plan that was shown is followed: what of it is not possible any more is told, and only that is planned anew."""

import pytest

from kvmove.admission.costs import Limits
from kvmove.errors import NotFound
from kvmove.manager.shown_plans import MOST, SHOWN_SECONDS, ShownPlans, pick
from kvmove.model.host import HostStatus
from kvmove.model.move import MoveKind
from kvmove.model.placement import Action, BalancePlan, Cause, PlannedStep, Recommendation, Rule, RuleKind
from kvmove.model.vm import VmStatus
from kvmove.placement.cluster import Cluster, picture
from kvmove.placement.evacuation import Shown, Terms, evacuate
from kvmove.placement.rules import Rules
from kvmove.placement.standing import objections
from kvmove.units import GIB
from tests.support.clusters import host, vm

A, B, C = vm("a", "h1"), vm("b", "h1"), vm("c", "h1", disk="local")


def four(*on_h1: VmStatus) -> list[HostStatus]:
    """h1 with these VMs; h2 is the best for each of them, h4 the worst."""
    sizes = {"h2": 64 * GIB, "h3": 32 * GIB, "h4": 8 * GIB}
    return [host("h1", [(it, 1) for it in on_h1]), *(host(name, memory=size) for name, size in sizes.items())]


def step(name: str, to: str, kind: MoveKind = MoveKind.HOST) -> PlannedStep:
    return PlannedStep(vm=name, kind=kind, destination=to)


def seen(*vms: VmStatus, closed: frozenset[str] = frozenset()) -> Cluster:
    return picture(four(*vms), vms, closed=closed)


def test_what_was_shown_is_planned_though_another_host_would_be_better_now() -> None:
    plan = evacuate(seen(A, B), "h1", Rules(), shown=Shown([step("b", "h4"), step("a", "h3")]))
    assert [(it.vm, it.destination) for it in plan.steps] == [("b", "h4"), ("a", "h3")]
    assert plan.changes == ()


def test_a_step_that_is_not_possible_any_more_is_planned_anew_and_told() -> None:
    shown = Shown([step("a", "h2"), step("b", "h4")])
    plan = evacuate(seen(A, B, closed=frozenset({"h2"})), "h1", Rules(), shown=shown)
    assert {it.vm: it.destination for it in plan.steps} == {"a": "h3", "b": "h4"}
    assert plan.changes == ("a goes to h3 instead of h2: h2 takes no VMs now",)


def test_a_step_to_a_host_that_is_silent_is_planned_anew_and_told() -> None:
    plan = evacuate(seen(A), "h1", Rules(), shown=Shown([step("a", "h9")]))
    assert plan.steps[0].destination == "h2"
    assert plan.changes[0].startswith("a goes to h2 instead of h9: h9 does not answer")


def test_a_step_that_failed_is_planned_anew_with_the_reason() -> None:
    plan = evacuate(seen(A), "h1", Rules(), shown=Shown([step("a", "h4")], {"a": "no room"}))
    assert plan.changes == ("a goes to h2 instead of h4: no room",)


def test_a_vm_that_came_after_the_plan_was_shown_is_told() -> None:
    plan = evacuate(seen(A, B), "h1", Rules(), shown=Shown([step("b", "h4")]))
    assert [it.vm for it in plan.steps] == ["b", "a"]
    assert plan.changes == ("a was not in the plan: it goes to h2",)


def test_vms_that_a_rule_keeps_together_since_go_to_one_host() -> None:
    rules = Rules([Rule(name="pair", kind=RuleKind.TOGETHER, vms=("a", "b"))])
    plan = evacuate(seen(A, B), "h1", rules, shown=Shown([step("a", "h2"), step("b", "h4")]))
    assert {it.destination for it in plan.steps} == {"h2"}
    assert len(plan.changes) == 1


def test_as_many_move_at_once_as_admission_has_room_for() -> None:
    def most(limits: Limits, *, move_disks: bool = False) -> int:
        return evacuate(seen(A, B, C), "h1", Rules(), Terms(move_disks, limits=limits)).at_once

    assert most(Limits()) == 4, "units of a NIC of 1 Gbit/s"
    assert most(Limits(nic_move=0)) == 8
    assert most(Limits(nic_move=0, host_move=0)) == 64
    assert most(Limits(host_move=4)) == 2
    assert most(Limits(), move_disks=True) == 2
    assert most(Limits(datastore_move=100), move_disks=True) == 1


def move(name: str, to: str, kind: MoveKind = MoveKind.HOST, source: str = "h1") -> Recommendation:
    return Recommendation(
        id=f"{name}-{to}", cause=Cause.COMPUTE, kind=kind, vm=name, host=source, source=source, destination=to
    )


def test_recommendations_that_can_still_be_done_meet_no_objection() -> None:
    assert objections([move("a", "h4"), move("b", "h2")], seen(A, B), Rules()) == []
    together = Rules([Rule(name="pair", kind=RuleKind.TOGETHER, vms=("a", "b"))])
    assert objections([move("a", "h4"), move("b", "h4")], seen(A, B), together) == []


@pytest.mark.parametrize(
    ("asked", "closed", "why"),
    [
        (move("z", "h2"), "", "z is not there any more"),
        (move("a", "h2", source="h3"), "", "a is on h1 now, not on h3"),
        (move("a", "h2"), "h2", "a cannot go to h2: h2 takes no VMs now"),
        (move("a", "h9"), "", "a cannot go to h9: it does not answer"),
        (move("c", "h2"), "", "c cannot go to h2: h2 does not reach datastore local"),
        (move("a", "h2", MoveKind.UNIFIED), "", "a would go to h2 by a host move now"),
    ],
)
def test_each_that_cannot_be_done_any_more_is_told(asked: Recommendation, closed: str, why: str) -> None:
    [said] = objections([asked], seen(A, C, closed=frozenset({closed})), Rules())
    assert said.startswith(why)


def test_room_is_counted_over_all_of_them() -> None:
    big = [vm(name, "h1", memory=5 * GIB) for name in ("a", "b")]
    hosts = [host("h1", [(it, 1) for it in big]), host("h2", memory=8 * GIB)]
    [said] = objections([move("a", "h2"), move("b", "h2")], picture(hosts, big), Rules())
    assert said.startswith("b cannot go to h2: h2 has")


def test_a_vm_that_moves_already_is_told() -> None:
    moving = A.model_copy(update={"move_id": "1" * 16})
    assert objections([move("a", "h2")], seen(moving), Rules()) == ["a moves already"]


def test_a_disk_is_moved_only_from_where_it_was_to_where_it_fits() -> None:
    def disk(to: str, source: str = "shared") -> Recommendation:
        kept = move("a", to, MoveKind.STORAGE)
        return kept.model_copy(update={"disk": "root", "source": source})

    assert objections([disk("local")], seen(A), Rules()) == []
    assert "has no disk root on other" in objections([disk("local", "other")], seen(A), Rules())[0]
    assert "has no datastore gone" in objections([disk("gone")], seen(A), Rules())[0]
    large = vm("a", "h1", size=60 * GIB)
    assert "local has 50.0 GiB free" in objections([disk("local")], seen(large), Rules())[0]


def plan(*found: Recommendation) -> BalancePlan:
    return BalancePlan(imbalance=0.2, imbalance_after=0.1, recommendations=found)


def test_the_plan_shown_last_that_has_all_of_them_is_what_is_meant() -> None:
    shown, a, b = ShownPlans(), move("a", "h2"), move("b", "h2")
    shown.remember(plan(a, b), 0)
    shown.remember(plan(b.model_copy(update={"reason": "newer"})), 1)
    assert shown.choose(["b-h2", "a-h2"], 2) == [a, b]
    found = shown.choose(["b-h2"], 2)
    assert found is not None and found[0].reason == "newer"
    assert shown.choose(["c-h2"], 2) is None
    assert shown.choose(["a-h2"], SHOWN_SECONDS + 1) is None
    for number in range(MOST):
        shown.remember(plan(), 3 + number)
    assert shown.choose(["a-h2"], 20) is None


def test_whether_a_host_is_idle_is_asked_anew() -> None:
    off = move("", "h4").model_copy(update={"id": "off", "action": Action.POWER_OFF, "host": "h4"})
    shown = ShownPlans()
    shown.remember(plan(off), 0)
    assert shown.choose(["off"], 1) is None
    assert pick(plan(off), ["off"]) == [off]
    with pytest.raises(NotFound, match="gone is not recommended"):
        pick(plan(off), ["gone"])
