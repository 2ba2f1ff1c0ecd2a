"""Whatever the hosts, VMs and rules: a plan never makes things worse, breaks nothing, and is the last for a while."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from kvmove.model.placement import Action, Rule, RuleKind
from kvmove.model.vm import VmStatus
from kvmove.placement.cluster import Cluster, picture
from kvmove.placement.compute import Tuning, balance
from kvmove.placement.fit import FULL
from kvmove.placement.rules import Rules
from kvmove.units import GIB
from tests.support.clusters import host, vm

HOSTS = ("h1", "h2", "h3", "h4")


@dataclass(frozen=True)
class Scene:
    """VMs with the cores that they keep busy, by host; hosts' memory; rules; whether disks may move."""

    vms: dict[str, list[tuple[VmStatus, float]]]
    memory: dict[str, int]
    rules: tuple[Rule, ...]
    tuning: Tuning

    def cluster(self, resting: frozenset[str] = frozenset()) -> Cluster:
        hosts = [host(name, self.vms[name], memory=self.memory[name]) for name in HOSTS]
        everything = [one for name in HOSTS for one, _ in self.vms[name]]
        return picture(
            hosts, everything, frozenset(it.definition.uuid for it in everything if it.definition.name in resting)
        )

    def after(self, moves: list[tuple[str, str]]) -> "Scene":
        """The same once these VMs have gone to these hosts."""
        to = dict(moves)
        vms: dict[str, list[tuple[VmStatus, float]]] = {name: [] for name in HOSTS}
        for name in HOSTS:
            for one, cpu in self.vms[name]:
                place = to.get(one.definition.name, name)
                vms[place].append((one.model_copy(update={"host": place}), cpu))
        return Scene(vms, self.memory, self.rules, self.tuning)


@st.composite
def scenes(draw: st.DrawFn, with_rules: bool = True) -> Scene:
    vms: dict[str, list[tuple[VmStatus, float]]] = {name: [] for name in HOSTS}
    names = [f"v{number}" for number in range(draw(st.integers(0, 14)))]
    memory = {name: draw(st.sampled_from([12, 24, 48])) * GIB for name in HOSTS}
    for name in names:
        room = [it for it in HOSTS if sum(one.definition.memory for one, _ in vms[it]) + 4 * GIB <= FULL * memory[it]]
        if not room:
            continue
        place = draw(st.sampled_from(room))
        disk = draw(st.sampled_from(["shared", "shared", "local"]))
        made = vm(name, place, memory=draw(st.integers(1, 4)) * GIB, disk=disk, size=draw(st.integers(1, 20)) * GIB)
        vms[place].append((made, draw(st.floats(0, 2))))
    there = [one.definition.name for name in HOSTS for one, _ in vms[name]]
    rules: list[Rule] = []
    while with_rules and len(there) > 2 and len(rules) < 3 and draw(st.booleans()):
        kind = draw(st.sampled_from(list(RuleKind)))
        about = draw(st.lists(st.sampled_from(there), min_size=2, max_size=3, unique=True))
        where = draw(st.lists(st.sampled_from(HOSTS), min_size=1, max_size=2, unique=True))
        on = tuple(where) if kind in (RuleKind.MUST, RuleKind.SHOULD) else ()
        rules.append(Rule(name=f"r{len(rules)}", kind=kind, vms=tuple(about), hosts=on))
    tuning = Tuning(draw(st.sampled_from([0.02, 0.1])), 0.9, draw(st.sampled_from([0.0, 0.03])), draw(st.booleans()))
    return Scene(vms, memory, tuple(rules), tuning)


def planned(scene: Scene, resting: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    plan = balance(scene.cluster(resting), Rules(scene.rules), scene.tuning)
    assert all(it.action is Action.MOVE for it in plan.recommendations)
    return [(it.vm, it.destination) for it in plan.recommendations]


def broken(scene: Scene) -> set[tuple[str, str]]:
    cluster = scene.cluster()
    rules = Rules(scene.rules)
    return {(rule.name, guest.name) for rule in scene.rules for guest in rules.misplaced(rule, cluster)}


@settings(max_examples=40)
@given(scenes(with_rules=False))
def test_the_imbalance_never_grows_and_ends_as_the_plan_says(scene: Scene) -> None:
    before = scene.cluster()
    plan = balance(scene.cluster(), Rules(), scene.tuning)
    after = scene.after([(it.vm, it.destination) for it in plan.recommendations]).cluster()
    assert after.imbalance <= before.imbalance + 1e-9
    assert abs(after.imbalance - plan.imbalance_after) < 1e-3
    if plan.recommendations:
        assert after.imbalance < before.imbalance


@settings(max_examples=40)
@given(scenes())
def test_a_second_plan_right_after_is_empty(scene: Scene) -> None:
    moves = planned(scene)
    assert planned(scene.after(moves), frozenset(name for name, _ in moves)) == []


@settings(max_examples=40)
@given(scenes())
def test_no_rule_that_holds_is_broken(scene: Scene) -> None:
    rules_of = {rule.name: rule for rule in scene.rules}
    before = {name for name, _ in broken(scene)}
    after = {name for name, _ in broken(scene.after(planned(scene)))}
    assert {name for name in after - before if rules_of[name].kind is not RuleKind.SHOULD} == set()


@settings(max_examples=40)
@given(scenes())
def test_no_host_is_over_its_memory_at_any_step(scene: Scene) -> None:
    moves = planned(scene)
    for done in range(len(moves) + 1):
        for one in scene.after(moves[:done]).cluster().hosts.values():
            assert one.memory_used <= one.load.memory_total * FULL


@settings(max_examples=40)
@given(scenes())
def test_disks_move_only_where_they_may_and_a_vm_moves_once_for_balance(scene: Scene) -> None:
    plan = balance(scene.cluster(), Rules(scene.rules), scene.tuning)
    for it in plan.recommendations:
        assert it.kind != "unified" or scene.tuning.move_disks
    even = [it.vm for it in plan.recommendations if it.cause == "compute"]
    assert len(even) == len(set(even))
