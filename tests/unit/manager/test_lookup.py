"""Finding a VM by what a person wrote."""

from uuid import UUID

import pytest

from kvmove.errors import InvalidInput, NotFound
from kvmove.manager.lookup import did_you_mean, find_vm, one_place_each
from kvmove.model.vm import VmState
from tests.support.samples import DB1, WEB1, definition, vm

WEB = vm()
DB = vm(definition=definition("db1", DB1))
WEB10 = vm(definition=definition("web10", UUID(int=10)))
ALL = [WEB, DB, WEB10]


@pytest.mark.parametrize("text", ["web1", str(WEB1), str(WEB1).upper(), "1111"])
def test_a_name_a_uuid_or_its_beginning_finds_the_vm(text: str) -> None:
    assert find_vm(ALL, text) is WEB


def test_a_whole_name_wins_over_a_name_that_begins_so() -> None:
    assert find_vm(ALL, "web1") is WEB
    assert find_vm(ALL, "D") is DB


def test_a_beginning_of_two_is_refused_and_names_both() -> None:
    with pytest.raises(InvalidInput, match=r"web1 \(1111.*on h1\) or web10"):
        find_vm(ALL, "web")


def test_two_vms_of_one_name_are_told_apart_by_uuid_alone() -> None:
    twin = vm("h2", definition=definition("web1", DB1))
    with pytest.raises(InvalidInput, match="on h2"):
        find_vm([WEB, twin], "web1")
    assert find_vm([WEB, twin], str(DB1)) is twin


def test_where_a_mistake_would_cost_a_beginning_does_not_do() -> None:
    with pytest.raises(NotFound):
        find_vm(ALL, "db", exact=True)
    assert find_vm(ALL, "db1", exact=True) is DB


def test_nothing_is_the_beginning_of_no_vm() -> None:
    with pytest.raises(NotFound):
        find_vm([WEB], "")


def test_a_name_that_is_not_there_brings_a_close_one() -> None:
    with pytest.raises(NotFound) as caught:
        find_vm(ALL, "web2")
    assert "did you mean" in caught.value.hint
    assert "web1" in caught.value.hint


def test_with_nothing_close_the_hint_lists_what_there_is() -> None:
    assert did_you_mean("zebra", ["web1", "db1"]) == "there are: db1, web1"
    assert did_you_mean("zebra", []) == "there is none yet"


def test_a_vm_that_moves_is_shown_where_it_runs() -> None:
    destination = vm("h2", VmState.INCOMING, epoch=1)
    assert one_place_each([destination, WEB]) == [WEB]


def test_after_the_hand_over_the_host_with_the_higher_epoch_counts() -> None:
    left = vm("h1", VmState.UNKNOWN, epoch=1)
    arrived = vm("h2", epoch=2)
    assert one_place_each([left, arrived]) == [arrived]
    assert one_place_each([arrived, left]) == [arrived]


def test_a_waiting_destination_does_not_hide_a_source_that_is_silent() -> None:
    left = vm("h1", VmState.UNKNOWN, epoch=1)
    assert one_place_each([vm("h2", VmState.INCOMING, epoch=1), left]) == [left]


def test_vms_are_sorted_by_name() -> None:
    assert [found.definition.name for found in one_place_each(ALL)] == ["db1", "web1", "web10"]
