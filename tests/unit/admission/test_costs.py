"""What each kind of move takes, by vSphere's table."""

from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from kvmove.admission.costs import Limits, claims
from kvmove.model.host import HostInfo
from kvmove.model.move import MovePlan
from kvmove.units import parse_rate
from tests.support import samples

HOSTS = {name: samples.host_info(name) for name in ("h1", "h2")}
D1, D2 = (f"datastore/{UUID(int=number)}" for number in (1, 2))


def taken(plan: MovePlan, hosts: dict[str, HostInfo] = HOSTS, **limits: Any) -> dict[str, tuple[int, int]]:
    return {claim.key: (claim.units, claim.capacity) for claim in claims(plan, hosts, Limits(**limits))}


def with_speed(rate: str) -> dict[str, HostInfo]:
    speed = parse_rate(rate) if rate else 0
    nics = {name: tuple(nic.model_copy(update={"speed": speed}) for nic in host.nics) for name, host in HOSTS.items()}
    return {name: host.model_copy(update={"nics": nics[name]}) for name, host in HOSTS.items()}


def test_a_unified_move_takes_four_of_each_host_a_unit_of_each_nic_and_sixteen_of_each_datastore() -> None:
    assert taken(samples.plan()) == {
        "host/h1": (4, 8), "host/h2": (4, 8), "nic/h1/mig0": (1, 4), "nic/h2/mig0": (1, 4), D1: (16, 128),
        D2: (16, 128),
    }  # fmt: skip


def test_a_host_move_takes_one_of_each_host_and_no_datastore() -> None:
    plan = samples.plan().model_copy(update={"disks": ()})
    assert taken(plan) == {"host/h1": (1, 8), "host/h2": (1, 8), "nic/h1/mig0": (1, 4), "nic/h2/mig0": (1, 4)}


def test_a_storage_move_counts_on_its_one_host_and_takes_no_nic() -> None:
    plan = samples.plan().model_copy(update={"destination": samples.H1, "routes": ()})
    assert taken(plan) == {"host/h1": (4, 8), D1: (16, 128)}


def test_a_datastore_that_both_hosts_share_is_one() -> None:
    shared = HOSTS["h2"].model_copy(update={"datastores": HOSTS["h1"].datastores})
    assert list(taken(samples.plan(), HOSTS | {"h2": shared})).count(D1) == 1


@pytest.mark.parametrize(("rate", "units"), [("100Mbit", 2), ("1Gbit", 4), ("10Gbit", 8), ("25Gbit", 8), ("", 4)])
def test_a_nic_has_units_by_its_speed(rate: str, units: int) -> None:
    assert taken(samples.plan(), with_speed(rate))["nic/h2/mig0"] == (1, units)


def test_every_figure_is_the_operators_to_change() -> None:
    assert taken(samples.plan(), host=20, unified_move=5, nic=7, nic_move=2, datastore=64, datastore_move=0) == {
        "host/h1": (5, 20), "host/h2": (5, 20), "nic/h1/mig0": (2, 7), "nic/h2/mig0": (2, 7),
    }  # fmt: skip


def test_a_limit_that_a_move_could_never_keep_is_refused() -> None:
    with pytest.raises(ValidationError, match="storage_move is more than host: such a move would wait for ever"):
        Limits(host=3)


def test_of_a_host_that_says_nothing_of_itself_the_host_alone_counts() -> None:
    assert taken(samples.plan(), {}) == {"host/h1": (4, 8), "host/h2": (4, 8)}
