"""The order of hosts: each criterion decides only among hosts that are equal before it."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from kvmove.migration.findings import blocker, warning
from kvmove.migration.ranking import ORDER, rank
from kvmove.model.ranking import RankedHost
from kvmove.units import GIB
from tests.support.nouns import move_plan

PLAN = move_plan()
WARNED = warning("mtu-differs", "the MTUs differ", "make them equal")
BLOCKED = blocker("memory-short", "no memory", "free some")


def host(name: str, memory: int = 4 * GIB, **more: object) -> RankedHost:
    return RankedHost.model_validate({"host": name, "plan": PLAN, "memory_free": memory, **more})


def test_the_order_is_as_it_is_told() -> None:
    best = host("z", plan=PLAN.model_copy(update={"disks": (), "stays": PLAN.disks}), running_moves=2)
    idle, busy = host("b"), host("a", running_moves=1, memory=8 * GIB)
    roomy = host("c", memory=5 * GIB)
    warned, blocked = host("d", findings=(WARNED,)), host("e", plan=None, findings=(WARNED, BLOCKED))
    ordered = rank([blocked, warned, busy, idle, roomy, best])
    assert [it.host for it in ordered] == ["z", "c", "b", "a", "d", "e"]
    assert ordered[0].why == "no blockers, no warnings, no disk to copy, 2 running moves, 4.0 GiB of memory free"
    assert ordered[-1].why == "1 blocker, 1 warning, no running moves, 4.0 GiB of memory free"
    assert ORDER.startswith("First hosts that nothing blocks, then")


HOSTS = st.lists(
    st.builds(
        host,
        st.sampled_from("abcdef"),
        memory=st.sampled_from([GIB, 2 * GIB]),
        running_moves=st.integers(0, 2),
        findings=st.sampled_from([(), (WARNED,), (WARNED, WARNED)]),
    ),
    unique_by=lambda it: it.host,
)


@given(hosts=HOSTS, shuffle=st.randoms())
def test_the_order_does_not_depend_on_how_the_hosts_come(hosts: list[RankedHost], shuffle: Random) -> None:
    mixed = list(hosts)
    shuffle.shuffle(mixed)
    assert rank(mixed) == rank(hosts)
    assert sorted(it.host for it in rank(mixed)) == sorted(it.host for it in hosts)
